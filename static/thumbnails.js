// Small pictures for the cards in view: drawn when a card comes near the window, two at a time,
// so that five hundred photos cost neither memory nor a stutter.

// Pixels of a thumbnail's width: a card's, on a dense screen.
const WIDTH = 360;
// How far outside the window a card is drawn already.
const MARGIN = "600px 0px";
// Thumbnails drawn at a time; decoding is the browser's, in threads of its own.
const AT_A_TIME = 2;

export class Thumbnails {
  constructor() {
    this.files = new Map();            // by card, of those not drawn yet
    this.queue = [];
    this.drawing = 0;
    this.urls = [];
    this.sight = new IntersectionObserver((entries) => this.seen(entries), { rootMargin: MARGIN });
  }

  watch(card, file) {
    this.files.set(card, file);
    this.sight.observe(card);
  }

  forget() {
    this.sight.disconnect();
    this.files.clear();
    this.queue = [];
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.urls = [];
  }

  seen(entries) {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      this.sight.unobserve(target);
      this.queue.push(target);
    }
    this.draw();
  }

  draw() {
    while (this.drawing < AT_A_TIME && this.queue.length > 0) {
      const card = this.queue.shift();
      const file = this.files.get(card);
      this.files.delete(card);
      this.drawing++;
      this.drawOne(card, file);
    }
  }

  async drawOne(card, file) {
    try {
      this.put(card, await smaller(file));
    } catch {
      // What the browser cannot read has no thumbnail; whether we can is in the answer.
    }
    this.drawing--;
    this.draw();
  }

  put(card, blob) {
    if (!card.isConnected) return;
    const url = URL.createObjectURL(blob);
    this.urls.push(url);
    const image = card.querySelector("img");
    image.src = url;
    image.hidden = false;
  }
}

async function smaller(file) {
  const bitmap = await createImageBitmap(file, { resizeWidth: WIDTH, resizeQuality: "medium" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
}
