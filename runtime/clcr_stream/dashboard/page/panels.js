// The cards beside the curve: answer, words, weights, latency, sources, session.

import { DASHES, canvas2d, clock, colour, duration, element, number, percent, signed, text } from "./format.js";
import { LATENCY } from "./store.js";

const SPOKEN_EVERY_MS = 6000, SPOKEN_AFTER_MS = 2500;
const PARTS = [["vision", "vision"], ["acoustic", "sound"], ["language", "words"]];
const decibels = (unit) => (value) => `${value.toFixed(0).replace("-", "−")} ${unit}`;
const MEASURES = [
  ["quality", "quality", number], ["luma", "light", percent], ["sharpness", "sharpness", (value) => value.toFixed(0)], ["face_size", "face", percent],
  ["level_dbfs", "level", decibels("dBFS")], ["noise_dbfs", "noise", decibels("dBFS")], ["snr_db", "SNR", decibels("dB")], ["speech_share", "speech", percent],
];
const LOSSES = /(late|overflow|malformed|not_finite|lost)$/;
const byId = (name) => document.getElementById(name);

export class Panels {
  constructor() {
    this.scores = [];
    this.shownWords = "";
    this.spoken = { label: null, since: 0, said: null, at: 0 };
  }

  draw(store) {
    this.answer(store);
    this.face(store);
    this.words(store);
    this.weights(store);
    this.numbers(store);
    this.latency(store);
    this.sources(store);
    this.about(store);
  }

  answer(store) {
    const prediction = store.prediction;
    const names = store.regression ? ["value"] : store.labels;
    if (this.scores.map((row) => row.name).join("\n") !== names.join("\n") || this.signed !== store.regression) this.build(names, store.regression);
    const degraded = prediction ? prediction.degraded : [];
    text(byId("answer-title"), store.waiting && prediction ? "Last answer" : "Now");
    byId("answer-card").classList.toggle("past", store.waiting !== "");
    const none = prediction && (store.regression ? prediction.value === null : prediction.label === null);
    text(byId("answer-label"), !prediction ? "–" : none ? "no answer" : store.regression ? signed(prediction.value) : prediction.label);
    text(byId("answer-number"), !prediction || none || store.regression ? (store.regression && prediction ? "from −3 to +3" : "") : percent(prediction.confidence));
    const why = none && !store.regression ? "; the numbers are the model's prior and say nothing of anybody" : "";
    text(byId("degraded"), !prediction ? "" : degraded.length ? `Degraded: ${degraded.join(", ").replaceAll("_", " ")}${why}` : store.waiting ? "" : "All inputs are there");
    byId("degraded").classList.toggle("warn", degraded.length > 0);
    this.scores.forEach((row, index) => {
      const value = store.regression ? prediction && prediction.value : prediction && prediction.probs ? prediction.probs[row.name] : null;
      text(row.number, store.regression ? signed(value) : number(value));
      row.item.classList.toggle("top", !none && prediction !== null && (store.regression || row.name === prediction.label));
      const share = value === null || value === undefined ? 0 : store.regression ? Math.max(-1, Math.min(1, value / 3)) : value;
      row.fill.style.transform = `scaleX(${share})`;
    });
    this.speak(store.waiting ? "waiting" : none || !prediction ? "no answer" : store.regression ? signed(prediction.value) : prediction.label, store.regression);
  }

  // Only with `clcr-stream --preview`; a picture is decoded and drawn, never kept.
  face(store) {
    byId("face").hidden = store.face === null;
    if (store.face === null || store.face === this.shownFace) return;
    this.shownFace = store.face;
    const canvas = byId("face-crop");
    const pen = canvas.getContext("2d");
    if (store.face === "") {
      pen.clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    const data = Uint8Array.from(atob(store.face), (sign) => sign.charCodeAt(0));
    createImageBitmap(new Blob([data], { type: "image/jpeg" })).then((picture) => {
      pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
      picture.close();
    }, () => pen.clearRect(0, 0, canvas.width, canvas.height));
  }

  build(names, regression) {
    this.signed = regression;
    const list = byId("scores");
    list.replaceChildren();
    this.scores = names.map((name, index) => {
      const kind = `c${(regression ? 1 : index) % 8}`;
      const sample = element("canvas", { class: `sample ${kind}`, width: 48, height: 24, "aria-hidden": "true" });
      const fill = element("i");
      const count = element("span", { class: "number" });
      const bar = element("span", { class: `bar ${kind}${regression ? " signed" : ""}`, "aria-hidden": "true" }, fill);
      const item = element("li", {}, sample, element("span", {}, name), count, bar);
      list.append(item);
      return { name, item, number: count, fill, sample, index };
    });
    this.samples();
  }

  // The dash of each curve beside its name: nobody has to tell colours apart.
  samples() {
    for (const { sample, index } of this.scores) {
      const pen = sample.getContext("2d");
      pen.clearRect(0, 0, 48, 24);
      pen.strokeStyle = colour(`--c${(this.signed ? 1 : index) % 8}`);
      pen.lineWidth = 5;
      pen.setLineDash(this.signed ? [] : DASHES[index % DASHES.length].map((length) => 2 * length));
      pen.beginPath();
      pen.moveTo(0, 12);
      pen.lineTo(48, 12);
      pen.stroke();
    }
  }

  // For a screen reader: an answer that has held for a while, not five a second.
  speak(label, regression) {
    const now = performance.now();
    const kind = regression && /^[+−]/.test(label) ? (label.startsWith("+") ? "positive" : "negative") : label;
    if (kind !== this.spoken.label) Object.assign(this.spoken, { label: kind, since: now });
    const held = now - this.spoken.since > SPOKEN_AFTER_MS && now - this.spoken.at > SPOKEN_EVERY_MS;
    if (held && kind !== this.spoken.said) {
      Object.assign(this.spoken, { said: kind, at: now });
      text(byId("spoken"), `Now: ${kind}`);
    }
  }

  words(store) {
    const segments = store.sortedWords.slice(-60);
    const key = segments.map((segment) => `${segment.id} ${segment.revision} ${segment.final} ${segment.text}`).join("\n");
    if (key === this.shownWords && byId("words").children.length) return;
    this.shownWords = key;
    const list = byId("words");
    const below = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
    const items = segments.map((segment) => {
      const date = store.date(segment.start_ns);
      return element("li", segment.final ? {} : { class: "pending" }, element("time", {}, date ? clock(date) : ""), element("span", {}, segment.text));
    });
    list.replaceChildren(...(items.length ? items : [element("li", { class: "none" }, "No words yet.")]));
    if (below) list.scrollTop = list.scrollHeight;
  }

  weights(store) {
    const body = byId("modalities").tBodies[0];
    const levels = byId("levels").tBodies[0];
    if (!body.rows.length) {
      for (const [, name] of PARTS) body.append(element("tr", {}, element("th", { scope: "row" }, name), cellWithBar(), cellWithBar(), element("td"), element("td")));
      for (const level of [1, 2, 3]) levels.append(element("tr", {}, element("th", { scope: "row" }, String(level)), cellWithBar(), element("td"), element("td"), element("td")));
    }
    const prediction = store.prediction;
    if (!prediction) return;
    PARTS.forEach(([key], index) => {
      const part = prediction.modalities[key];
      const cells = body.rows[index].cells;
      body.rows[index].classList.toggle("absent", !part.present);
      bar(cells[1], part.weight);
      bar(cells[2], part.gate);
      text(cells[3], part.present ? percent(part.coverage) : "no");
      text(cells[4], part.age_ms === null ? "–" : part.age_ms < 10000 ? `${Math.round(part.age_ms)} ms` : `${Math.round(part.age_ms / 1000)} s`);
    });
    prediction.levels.weights.forEach((weight, index) => {
      const cells = levels.rows[index].cells;
      bar(cells[1], weight);
      prediction.budget.active[index].forEach((share, part) => text(cells[2 + part], percent(share)));
    });
    text(byId("gamma"), `Budget: share of the tokens in use at each level${prediction.budget.gamma === null ? "" : `, gamma ${prediction.budget.gamma}`}.`);
  }

  // What was measured on pictures and sound, a line each.
  numbers(store) {
    if (!store.prediction) return;
    const { vision, acoustic } = store.prediction.modalities;
    const lines = [["Pictures", { quality: vision.quality, ...vision.numbers }], ["Sound", acoustic.numbers]].map(([name, values]) => {
      const known = MEASURES.filter(([key]) => values[key] !== null && values[key] !== undefined);
      return known.length ? `${name}: ${known.map(([key, label, write]) => `${label} ${write(values[key])}`).join(", ")}` : "";
    }).filter(Boolean);
    const list = byId("numbers");
    while (list.children.length < lines.length) list.append(element("li"));
    while (list.children.length > lines.length) list.lastChild.remove();
    lines.forEach((line, index) => text(list.children[index], line));
  }

  latency(store) {
    const values = store.between(store.newestNs - 60e9, store.newestNs).map((row) => row[LATENCY]).filter((value) => value !== null).sort((one, other) => one - other);
    const at = (share) => values[Math.round(share * (values.length - 1))];
    const figures = byId("latency");
    if (values.length) {
      if (!figures.children.length) figures.append("p50 ", element("b"), " ms   p99 ", element("b"), " ms");
      text(figures.children[0], at(0.5).toFixed(0));
      text(figures.children[1], at(0.99).toFixed(0));
    }
    histogram(byId("histogram"), values, at);
    const status = store.status;
    if (status) {
      const skipped = Object.entries(status.ticks.skipped).filter(([, count]) => count);
      const why = skipped.length ? `skipped: ${skipped.map(([name, count]) => `${name} ${count}`).join(", ")}` : "none skipped";
      text(byId("ticks"), `${status.ticks.published} of ${status.ticks.due} ticks published, ${why}${status.refused_peers ? `; connections refused: ${status.refused_peers}` : ""}`);
    }
  }

  sources(store) {
    const found = store.status ? store.status.sources : [];
    const key = JSON.stringify(found.map((one) => [one.kind, one.name, one.state, one.reason, used(one), losses(one)]));
    if (key === this.shownSources) return;
    this.shownSources = key;
    byId("sources").replaceChildren(
      ...found.map((one) => {
        const state = element("p", { class: "state", "data-state": one.state }, element("span", { class: "dot", "aria-hidden": "true" }), `${one.kind}: ${one.state}`);
        const lines = [one.name, one.state === "live" ? null : one.reason, used(one), losses(one)].filter(Boolean);
        return element("li", {}, state, ...lines.map((line) => element("small", {}, line)));
      }),
    );
  }

  about(store) {
    const session = store.session;
    if (!session || session.session === this.shownSession) return;
    this.shownSession = session.session;
    text(byId("notice"), session.intended_use.notice);
    const facts = {
      Stream: session.stream,
      Bundle: `${session.bundle_name} ${session.bundle.slice(0, 12)}`,
      Backend: session.backend,
      Began: new Date(session.started_at).toLocaleString(),
      Window: `${session.window_ns / 1e9} s, an answer every ${session.hop_ns / 1e6} ms`,
      "Meant for": session.intended_use.context.join(", "),
      Version: session.versions.clcr_stream ?? session.versions["clcr-stream"] ?? "",
      Session: session.session,
    };
    byId("about").replaceChildren(...Object.entries(facts).filter(([, value]) => value).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  }
}

export function stateOf(store) {
  if (store.waiting) return ["waiting", store.waiting];
  if (!store.status) return ["waiting", "connected"];
  return [store.status.state, `${store.status.state} ${duration(store.status.uptime_s)}`];
}

function used(source) {
  return Object.entries(source.counts).filter(([name, count]) => count && /(used|segments)$/.test(name)).map(([name, count]) => `${name.replaceAll("_", " ")} ${count.toLocaleString()}`).join(", ");
}

function losses(source) {
  return Object.entries(source.counts).filter(([name, count]) => count && LOSSES.test(name)).map(([name, count]) => `${name.replaceAll("_", " ")} ${count}`).join(", ");
}

function cellWithBar() {
  return element("td", {}, element("div", { class: "pair" }, element("b"), element("span", { class: "bar", "aria-hidden": "true" }, element("i"))));
}

function bar(cell, value) {
  const [count, track] = cell.firstChild.children;
  text(count, number(value));
  track.firstChild.style.transform = `scaleX(${Math.max(0, Math.min(1, value ?? 0))})`;
}

function histogram(canvas, values, at) {
  const place = canvas2d(canvas);
  if (place === null || !values.length) return;
  const { pen, width, height } = place;
  const step = [2, 5, 10, 20, 50, 100, 200, 500, 1000].find((size) => (values[values.length - 1] - values[0]) / size < 24) ?? 2000;
  const first = Math.floor(values[0] / step) * step - step;
  const bins = Math.max(8, Math.ceil((values[values.length - 1] - first) / step) + 2);
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value - first) / step))] += 1;
  const most = Math.max(...counts), wide = width / bins, floor = height - 16;
  pen.fillStyle = colour("--accent");
  counts.forEach((count, index) => {
    const high = (count / most) * (floor - 4);
    if (count) pen.fillRect(index * wide + 1, floor - Math.max(1.5, high), Math.max(1, wide - 2), Math.max(1.5, high));
  });
  pen.fillStyle = colour("--soft");
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "left";
  pen.fillText(`${first} ms`, 0, height - 3);
  pen.textAlign = "right";
  pen.fillText(`${first + bins * step} ms`, width, height - 3);
  canvas.setAttribute("aria-label", `Histogram of ${values.length} latencies from ${values[0].toFixed(0)} to ${values[values.length - 1].toFixed(0)} ms, half of them below ${at(0.5).toFixed(0)} ms`);
}
