/* Search when the site is read from a folder. A page opened from a file gets no workers from its browser, so the
 * search script runs in a hidden frame instead and exchanges the same messages with the page. Over HTTP this does
 * nothing. The file's name tells Material's offline plugin that no script from elsewhere is needed. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      // A constant of that name stands before the frame's own postMessage for every script that comes after it.
      this.frame.srcdoc =
        "<script>const postMessage = data => parent.postMessage(data, '*')<\/script>" +
        `<script src="${new URL(url, location.href).href.replaceAll('"', "%22")}"><\/script>`;
      this.loaded = new Promise(resolve => this.frame.addEventListener("load", resolve, { once: true }));
      window.addEventListener("message", event => {
        if (event.source === this.frame.contentWindow) {
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
        }
      });
      document.body.append(this.frame);
    }
    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.postMessage(data, "*"));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
