// The camera page: only the newest frame is sent, one at a time; labels over the picture.

import { ask, asProblem, byId, fill, percent, setText, sleep } from "./ask.js";

// Pixels of the longer side sent; the network itself looks at 227.
const SIDE = Number(byId("camera").dataset.side);
const QUALITY = 0.85;
// Share of the newest frame in the percentages shown: at 20 frames a second bare ones flicker.
const NEWEST = 0.3;
// Labels shown, and the least that is worth a line.
const SHOWN = 3;
const LEAST = 0.03;
// Round trips the rate is taken from.
const RATE_WINDOW = 20;
// Seconds until the next frame after one that failed.
const AFTER_FAILURE_S = 1;
// Milliseconds between two words to a screen reader.
const SPEAK_EVERY_MS = 4000;

const page = byId("camera");
const video = byId("video");
const cameras = byId("cameras");
const canvas = document.createElement("canvas");

let watch = null;                      // the running one: its stream, its figures, how to end it

// ---- Starting and stopping ------------------------------------------------------

const REFUSALS = {
  NotAllowedError: ["Camera access was denied", "Allow this page to use the camera in the browser's address bar, then start again."],
  NotFoundError: ["No camera", "This device has no camera that the browser can find. Plug one in, or upload a picture instead."],
  NotReadableError: ["The camera is in use", "Another program is using the camera. Close it, then start again."],
};

function refusal(error) {
  const [title, detail] = REFUSALS[error.name] ?? ["The camera does not start", `The browser says: ${error.message || error.name}.`];
  return { title, detail };
}

function insecure() {
  return {
    title: "The browser blocks the camera",
    detail: "Browsers allow the camera only to pages over HTTPS or from their own machine. On the machine running"
      + ` Spyglass, open http://localhost${location.port && `:${location.port}`}/camera; from elsewhere, use HTTPS.`,
  };
}

function show(state) {
  page.dataset.state = state;
  const on = state === "on";
  byId("start").hidden = on;
  byId("stop").hidden = !on;
}

function showError(problem) {
  byId("error").hidden = problem === null;
  if (problem) fill(byId("error"), problem);
}

function showTrouble(sentence) {
  byId("trouble").hidden = sentence === "";
  setText(byId("trouble"), sentence);
}

async function start(deviceId = "") {
  stop();
  showError(null);
  if (!navigator.mediaDevices) {
    showError(insecure());
    return;
  }
  const mine = { end: new AbortController(), answered: 0, moved: 0, times: [], seen: new Map(), spokenAt: -Infinity };
  watch = mine;
  show("starting");
  try {
    const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "environment" };
    const stream = await navigator.mediaDevices.getUserMedia({ video: { ...which, width: { ideal: 1280 } }, audio: false });
    if (watch !== mine) {              // stopped while the person was asked
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    mine.stream = stream;
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => {
      if (watch !== mine) return;
      stop();
      showError({ title: "Camera disconnected", detail: "It was unplugged, or taken by another program. Start it again when it is back." });
    });
    video.srcObject = stream;
    await video.play();
    byId("drop").style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`;
    show("on");
    byId("stop").focus();
    await offerCameras(track);
  } catch (error) {
    if (watch !== mine) return;
    stop();
    showError(refusal(error));
    return;
  }
  run(mine).catch((error) => { if (watch === mine) { stop(); showError(asProblem(error).fields); } });
}

function stop() {
  if (!watch) return;
  for (const track of watch.stream?.getTracks() ?? []) track.stop();
  watch.end.abort();
  watch = null;
  video.srcObject = null;
  byId("drop").style.aspectRatio = "";
  byId("sights").replaceChildren();
  showTrouble("");
  show("idle");
}

// Browsers name the cameras only once one may be used.
async function offerCameras(current) {
  const devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  byId("choice").hidden = devices.length < 2;
  cameras.replaceChildren(...devices.map(({ deviceId, label }, n) => new Option(label || `Camera ${n + 1}`, deviceId)));
  cameras.value = current.getSettings().deviceId;
}

// ---- Frame by frame ----------------------------------------------------------------

function nextFrame(signal) {
  return new Promise((resolve, reject) => {
    // The signal lives as long as the watch: what a frame hangs on it goes with the frame.
    const stopped = () => reject(signal.reason);
    const come = () => { signal.removeEventListener("abort", stopped); resolve(); };
    signal.addEventListener("abort", stopped, { once: true });
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(come);
    else requestAnimationFrame(come);
  });
}

function jpeg() {
  const scale = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight));
  canvas.width = Math.round(scale * video.videoWidth);
  canvas.height = Math.round(scale * video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", QUALITY); });
}

async function run(mine) {
  const { signal } = mine.end;
  while (!signal.aborted) {
    try {
      await nextFrame(signal);
      const frame = await jpeg();
      const began = performance.now();
      const answer = await ask(frame, signal);
      showAnswer(mine, answer, performance.now() - began);
    } catch (error) {
      if (signal.aborted) return;
      const problem = asProblem(error);
      showTrouble(`${problem.message}. Resuming automatically.`);
      mine.times = [];
      await sleep(problem.waitS || AFTER_FAILURE_S, signal).catch(() => {});
    }
  }
}

// ---- What the person sees --------------------------------------------------------------

function showAnswer(mine, answer, tookMs) {
  const now = performance.now();
  mine.answered += 1;
  mine.moved += answer.attempts > 1;
  mine.times.push(now);
  if (mine.times.length > RATE_WINDOW) mine.times.shift();
  byId("gauges").hidden = false;
  byId("idle").hidden = true;
  const spanS = (now - mine.times[0]) / 1000;
  fill(byId("gauges"), {
    rate: spanS > 0 ? ((mine.times.length - 1) / spanS).toFixed(1) : "–",
    round: `${tookMs.toFixed(0)} ms`,
    infer: `${answer.timings_ms.infer.toFixed(0)} ms`,
    worker: answer.worker,
    answered: mine.answered.toLocaleString("en"),
    moved: mine.moved.toLocaleString("en"),
  });
  showTrouble(answer.attempts > 1 ? `More than one worker tried this frame; ${answer.worker} answered.` : "");
  showSights(smoothed(mine.seen, answer.predictions));
  speak(mine, now);
}

function smoothed(seen, predictions) {
  for (const [label, probability] of seen) seen.set(label, probability * (1 - NEWEST));
  for (const { label, probability } of predictions) {
    seen.set(label, (seen.get(label) ?? 0) + NEWEST * probability);
  }
  const ranked = [...seen].sort(([, a], [, b]) => b - a);
  for (const [label, probability] of ranked) if (probability < LEAST / 10) seen.delete(label);
  return ranked;
}

function showSights(ranked) {
  const list = byId("sights");
  const worth = ranked.slice(0, SHOWN).filter(([, probability], n) => n === 0 || probability >= LEAST);
  while (list.children.length > worth.length) list.lastElementChild.remove();
  worth.forEach(([label, probability], n) => {
    const row = list.children[n] ?? list.appendChild(byId("sight-row").content.firstElementChild.cloneNode(true));
    fill(row, { label, percent: percent(probability) });
  });
}

function speak(mine, now) {
  const [label] = [...mine.seen].reduce((best, one) => (one[1] > best[1] ? one : best));
  if (label === mine.spoken || now - mine.spokenAt < SPEAK_EVERY_MS) return;
  [mine.spoken, mine.spokenAt] = [label, now];
  byId("announce").textContent = label;
}

byId("start").addEventListener("click", () => start());
byId("stop").addEventListener("click", () => { stop(); byId("start").focus(); });
cameras.addEventListener("change", () => start(cameras.value));
window.addEventListener("pagehide", stop);
