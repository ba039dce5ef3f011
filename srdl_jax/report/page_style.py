# SPDX-License-Identifier: Apache-2.0
"""How the page of a report looks: light, dark, on phones, on paper."""

CSS = """
/* Colours, then the page, tables, figures; phones and paper at the end. */
:root {
  color-scheme: light dark;
  --ink: #1f2328; --soft: #59636e; --rule: #d1d9e0; --band: #f3f5f7;
  --link: #0059b3; --mark: #7a4b00; --mark-band: #fff1d6; --page: #ffffff;
  --up: #0072b2; --down: #c24e00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e8eb; --soft: #a0a8b1; --rule: #3d444d; --band: #23282e;
    --link: #6cb2ff; --mark: #ffce80; --mark-band: #46340f; --page: #171a1e;
    --up: #5cb8f0; --down: #ff8b45;
  }
}
body {
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Liberation Sans", sans-serif;
  color: var(--ink); background: var(--page);
  max-width: 72rem; margin: 0 auto; padding: 1.5rem;
}
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { font-size: 1.35rem; margin: 2.75rem 0 .75rem; padding-top: 1rem;
  border-top: 2px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; }
p, li, dl { max-width: 46rem; overflow-wrap: anywhere; }
p { margin: .5rem 0 .75rem; }
a { color: var(--link); text-decoration-thickness: 1px; }
#found { border: 0; margin-top: 1rem; padding: 0; }
#found + ul { font-size: 1.1rem; padding-left: 1.2rem; }
#found + ul li { margin: .5rem 0; }
nav { font-size: .9rem; border-top: 1px solid var(--rule); margin-top: 1.5rem; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav > ul { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem;
  margin: .75rem 0; }
nav .short { display: inline-block; margin-right: .6rem; }
dt { font-weight: 600; margin-top: .75rem; }
dd { margin: 0; }
.table { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
td > span, td > strong, td > a { white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom;
  border-bottom: 2px solid var(--rule); }
th a { color: inherit; text-decoration: underline dotted; }
.text { text-align: left; }
td.text > a { white-space: normal; }
td.text:first-child { min-width: 9rem; }
th:first-child, td:first-child { position: sticky; left: 0;
  background: var(--page); }
.theirs, .blank, .note, .detail, figcaption { color: var(--soft); }
th.theirs { font-weight: 400; }
.heading td { background: var(--band); font-weight: 600; text-align: left; }
.detail { font-weight: 400; font-size: .8125rem; white-space: normal; }
.note { font-size: .875rem; margin: .25rem 0; }
.mark { font-size: .75rem; padding: .05rem .35rem; border-radius: .25rem;
  color: var(--mark); background: var(--mark-band); white-space: nowrap; }
:target, :target td { background: var(--mark-band); }
.forest { width: 100%; max-width: 60rem; table-layout: fixed;
  margin: 1rem 0 1.5rem; }
.forest caption { text-align: left; font-weight: 600; padding: .25rem 0; }
.forest th, .forest td { border: 0; padding: .15rem .5rem .15rem 0; }
.forest th { font-weight: 400; color: var(--soft); }
.forest th:first-child { width: 34%; }
.forest th:nth-child(3) { width: 11rem; }
.forest th:nth-child(4) { width: 3rem; }
.forest svg { display: block; width: 100%; height: 1.3rem; overflow: visible;
  color: var(--soft); fill: currentColor; stroke: currentColor; }
.forest .up { color: var(--up); }
.forest .down { color: var(--down); }
.forest .hollow circle { fill: var(--page); }
.forest .zero { stroke: var(--rule); }
.forest text { stroke: none; font-size: .75rem; text-anchor: middle; }
.figures { display: grid; gap: 1.5rem 2.5rem; margin: 1rem 0 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
figure { margin: 0; max-width: 46rem; }
figure svg { display: block; width: 100%; height: auto; max-height: 38rem; }
figcaption { font-size: .875rem; margin-top: .4rem; }
@media screen and (max-width: 40rem) {
  body { padding: 1rem; }
  .table { overflow: visible; }
  table, tbody, tr, td, caption { display: block; }
  thead { display: none; }
  tr { border-bottom: 1px solid var(--rule); padding: .4rem 0; }
  th:first-child, td:first-child { position: static; }
  .table td { border: 0; padding: .1rem 0; display: flex; gap: 1rem;
    justify-content: flex-end; align-items: baseline; flex-wrap: wrap; }
  .table td::before { content: attr(data-label); color: var(--soft);
    text-align: left; font-weight: 400; flex: 1 1 7rem; }
  .mark { white-space: normal; }
  .table td:first-child { display: block; font-weight: 600; }
  .table td:first-child::before, .table td:empty { display: none; }
  .heading td { padding: .3rem .5rem; }
  td.text:not(:first-child) { overflow-wrap: anywhere; text-align: right; }
  .wide { overflow-x: auto; }
  .wide svg { width: 36rem; }
  .forest tr { display: grid; grid-template-columns: 1fr auto auto;
    border: 0; padding: .15rem 0; }
  .forest .plot { grid-row: 2; grid-column: 1 / -1; padding: 0; }
  .forest td:first-child { min-width: 0; }
  .forest td:last-child::before { content: "n = "; }
  .forest .axis td:not(.plot) { display: none; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  :root { color-scheme: light; --ink: #000; --soft: #444; --rule: #bbb;
    --band: #eee; --link: #000; --mark: #000; --mark-band: #eee; --page: #fff;
    --up: #0072b2; --down: #c24e00; }
  html { font-size: 9pt; }
  body { font-size: 1rem; padding: 0; max-width: none; }
  nav { display: none; }
  a, th a { text-decoration: none; }
  :target, :target td { background: none; }
  th, td { padding: .15rem .35rem; }
  th:first-child, td:first-child { position: static; }
  td.text:first-child { min-width: 6rem; }
  td.text { overflow-wrap: anywhere; }
  .figures { grid-template-columns: 1fr 1fr; }
  figure svg { max-height: 10cm; }
  .table { overflow: visible; }
  p, tr, figure, .forest { break-inside: avoid; }
  h2, h3, h2 + p, h3 + p { break-after: avoid; }
}
"""
