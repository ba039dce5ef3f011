// SPDX-License-Identifier: Apache-2.0
// Search, where the site is read from a folder: browsers start no worker from
// there, so that its script runs in a hidden frame.
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement('iframe');
      frame.hidden = true;
      this.started = new Promise((resolve) => {
        frame.onload = () => {
          frame.onload = null;
          const inner = frame.contentWindow;
          // What the script answers.
          inner.postMessage = (data) =>
            this.dispatchEvent(new MessageEvent('message', {data}));
          const script = inner.document.createElement('script');
          script.src = new URL(address, document.baseURI);
          script.onload = () => resolve(inner);
          inner.document.head.append(script);
        };
      });
      document.body.append(frame);
    }

    postMessage(data) {
      this.started.then((inner) =>
        inner.dispatchEvent(new inner.MessageEvent('message', {data})));
    }
  };
}
