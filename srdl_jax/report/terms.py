# SPDX-License-Identifier: Apache-2.0
"""What the report's words mean: told once, at its end."""

from collections.abc import Iterator, Sequence

from srdl_jax.report.document import Definitions, Forest, Section, Table

# Name that links refer to, word, what headers that use it hold, meaning.
_TERMS = (
  (
    'last-epoch',
    'last epoch',
    ('last epoch',),
    'The result: accuracy on the test images at the end of training, in %; '
    'mean over seeds ± sample standard deviation (number of seeds). The '
    'result of a method that is an ensemble is that of its stages together, '
    'and marked.',
  ),
  (
    'gain',
    'gain',
    ('gain',),
    'Difference of two rows in points of accuracy, paired by seed: mean [95 % '
    'interval of Student’s] (seeds that both rows have). An interval that '
    'holds 0 tells nothing; of one seed there is none. A mark such as “×3.3 '
    'cost” says how the cost of a row compares with that of the row that its '
    'gain is over, where they differ by a percent or more, in the arena by '
    'two.',
  ),
  (
    'best-epoch',
    'best epoch',
    ('best epoch',),
    'Chosen on the split that its cell names, or else on these very images: '
    'it is no result.',
  ),
  (
    'rank',
    'rank-1, mAP',
    ('rank-1', 'mAP'),
    'Where the test ranks a gallery, of the queries; mAP is the mean '
    'precision at each right image.',
  ),
  (
    'blank',
    'blank, R1',
    ('runs', 'ref'),
    'Blank: not run, or not recorded. R1, R2, … lead to the runs behind a '
    'number.',
  ),
  (
    'units',
    'cost in epochs of vanilla',
    ('cost (epochs',),
    'Forward passes of an image, a train step as three of them, over three '
    'times the training images. A row that differs by more than 2 % from the '
    'one that its gain is over is marked, and is not comparable with it.',
  ),
  (
    'trcost',
    'TrCost',
    ('TrCost',),
    'Of one run, its extraction passes and its teacher counted in: forward '
    'multiply-adds × epochs × training images. M is 10⁶, G 10⁹, T 10¹², P '
    '10¹⁵; the paper’s unit, 10¹⁶, is 10 P.',
  ),
  (
    'flops',
    'training FLOPs',
    ('FLOPs',),
    'Of one run, forward and backward, as the compiler counts them.',
  ),
  (
    'device-time',
    'device time',
    ('device time',),
    'Of one run: of training, extraction and teacher, times devices; it '
    'includes compilation, which is most of a short run.',
  ),
  (
    'mean',
    'the mean itself',
    ('the mean itself',),
    'Accuracy of the mean of the parameters, which taught, in place of the '
    'student that is the result.',
  ),
  (
    'memorised',
    'memorised, corrected',
    ('memorised', 'corrected'),
    'Of the training images whose label is wrong: those of which the wrong '
    'label is predicted (memorised), and those of which the right one is '
    '(corrected). Stage one is told of methods that have several.',
  ),
  (
    'nll',
    'NLL, ECE',
    ('NLL', 'ECE'),
    'Mean negative log-likelihood of the right class, in nats, and expected '
    'calibration error: the mean distance of accuracy and confidence over '
    'bins of confidence. Less is better.',
  ),
  (
    'agreement',
    'agreement, soft-target entropy',
    ('agree', 'soft-target'),
    'Of the training images: the share of which a network predicts its '
    'teacher’s class, and the mean entropy of what the teacher said.',
  ),
)


def of(header: str) -> str:
  """Returns the name of the term that a column's title uses, or ''."""
  return next(
    (name for name, _, words, _ in _TERMS if any(w in header for w in words)),
    '',
  )


def section(sections: Sequence[Section]) -> Iterator[Section]:
  """Yields what defines the terms that other sections use, if they do."""
  parts = [part for one in sections for part in one.parts]
  used = {of(h) for p in parts if isinstance(p, Table) for h in p.header}
  used |= {'gain' for part in parts if isinstance(part, Forest)}
  if items := tuple((n, w, m) for n, w, _, m in _TERMS if n in used):
    yield Section('terms', 'What the words mean', (Definitions(items),))
