// The window as three lanes: each token's share at levels 1, 2, 3, one row each, oldest left; words at their times.

import { colour, element, percent, text } from "./format.js";

const LANES = [
  ["vision", "face, 15 a second"],
  ["sound", "voice, 25 a second"],
  ["words", "newest 64 tokens"],
];
const PART = ["vision", "acoustic", "language"];

export class Lanes {
  constructor(root, note, ramp) {
    this.note = note;
    this.ramp = ramp;
    this.lanes = LANES.map(([name, about]) => {
      const canvas = element("canvas", { role: "img" });
      const share = element("div", { class: "share" });
      const middle = element("div", {}, canvas);
      const said = element("div", { class: "said" });
      if (name === "words") middle.prepend(said);
      root.append(element("div", { class: "lane" }, element("div", { class: "name" }, name, element("small", {}, about)), middle, share));
      return { name, canvas, share, said, spans: new Map() };
    });
  }

  draw(store) {
    const tokens = store.tokens;
    const ready = tokens !== null && store.prediction !== null;
    const scale = shades();
    this.drawRamp(scale);
    this.lanes.forEach((lane, index) => {
      const part = store.prediction ? store.prediction.modalities[PART[index]] : null;
      const levels = ready ? tokens[lane.name].map(bytes) : [];
      fill(lane.canvas, levels, scale);
      const active = store.prediction ? store.prediction.budget.active.map((row) => percent(row[index])) : [];
      text(lane.share, part && part.present ? active.join("\n") : "absent");
      lane.share.style.whiteSpace = "pre";
      lane.canvas.setAttribute("aria-label", `${lane.name}: ${part && part.present ? `tokens in use at levels 1, 2, 3: ${active.join(", ")}` : "not in the window"}`);
    });
    this.words(store);
    text(this.note, ready ? "Rows are levels 1, 2, 3; the newest is on the right, words in their order below their times. Right: how many tokens are in use." : "Waiting for tokens: a session of an older version does not send them.");
  }

  words(store) {
    const lane = this.lanes[2];
    const window = store.prediction ? store.prediction.window : null;
    const inside = window ? store.sortedWords.filter((segment) => segment.end_ns > window.start_ns && segment.start_ns < window.end_ns) : [];
    const names = new Set(inside.map((segment) => segment.id));
    for (const [name, span] of lane.spans) {
      if (!names.has(name)) {
        span.remove();
        lane.spans.delete(name);
      }
    }
    inside.forEach((segment, index) => {
      let span = lane.spans.get(segment.id);
      if (!span) lane.said.append((span = element("span")));
      lane.spans.set(segment.id, span);
      const length = window.end_ns - window.start_ns;
      const left = Math.max(0, (segment.start_ns - window.start_ns) / length);
      const next = inside[index + 1]; // there is room until the next words begin
      const right = next ? Math.min(1, (next.start_ns - window.start_ns) / length) : 1;
      span.style.left = `${100 * Math.min(left, 0.98)}%`;
      span.style.width = `${Math.max(2, 100 * (right - left))}%`;
      span.title = segment.text;
      text(span, segment.text);
    });
  }

  drawRamp(scale) {
    const pen = this.ramp.getContext("2d");
    for (let x = 0; x < this.ramp.width; x += 1) {
      pen.fillStyle = shade(scale, x / (this.ramp.width - 1));
      pen.fillRect(x, 0, 1, this.ramp.height);
    }
  }
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
}

// One pixel a token; CSS enlarges it.
function fill(canvas, levels, scale) {
  const width = levels.length ? levels[0].length : 1;
  if (canvas.width !== width || canvas.height !== 3) [canvas.width, canvas.height] = [width, 3];
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, 3);
  levels.forEach((level, row) => {
    level.forEach((value, at) => {
      if (value === 0) return;
      pen.fillStyle = shade(scale, value / 255);
      pen.fillRect(at, row, 1, 1);
    });
  });
}

function shades() {
  return [colour("--low"), colour("--high")].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
}

function shade([low, high], share) {
  const root = Math.sqrt(share); // small shares are most of them
  return `rgb(${low.map((value, index) => Math.round(value + (high[index] - value) * root)).join(" ")})`;
}
