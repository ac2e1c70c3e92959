// Scores over time on a canvas: scroll back, a cursor, a selected span; with keys as with a pointer.

import { DASHES, NS, canvas2d, clock, colour, number, signed } from "./format.js";
import { END, LABEL, SCORES } from "./store.js";

const EDGE = { left: 38, right: 10, top: 10, bottom: 24 };
const GAP_NS = 0.7 * NS; // a longer time without a prediction is a gap in the curve

export class Chart {
  constructor(canvas, store, onSelect) {
    Object.assign(this, { canvas, store, onSelect, spanS: 60, backNs: 0, cursorNs: null, selected: null, anchorNs: null });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => (this.anchorNs = null));
    canvas.addEventListener("pointercancel", () => (this.anchorNs = null));
    canvas.addEventListener("pointerleave", () => {
      if (this.anchorNs === null && document.activeElement !== canvas) this.cursorNs = null;
      this.draw();
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  get lastNs() {
    return this.store.newestNs - this.backNs;
  }

  get firstNs() {
    return this.lastNs - this.spanS * NS;
  }

  x(ns) {
    return EDGE.left + ((ns - this.firstNs) / (this.spanS * NS)) * (this.width - EDGE.left - EDGE.right);
  }

  timeAt(event) {
    const x = event.clientX - this.canvas.getBoundingClientRect().left;
    const share = (x - EDGE.left) / (this.width - EDGE.left - EDGE.right);
    return this.firstNs + Math.max(0, Math.min(1, share)) * this.spanS * NS;
  }

  down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.anchorNs = this.timeAt(event);
    this.select(null);
  }

  move(event) {
    this.cursorNs = this.timeAt(event);
    if (this.anchorNs !== null && Math.abs(this.cursorNs - this.anchorNs) > (this.spanS * NS) / 150) {
      this.select([Math.min(this.anchorNs, this.cursorNs), Math.max(this.anchorNs, this.cursorNs)]);
    }
    this.draw();
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -25, PageDown: 25, Home: -1e6, End: 1e6 };
    if (event.key === "Escape") {
      this.cursorNs = null;
      this.select(null);
    } else if (event.key in steps && this.store.rows.length) {
      const from = this.cursorNs ?? this.lastNs;
      const to = Math.max(this.firstNs, Math.min(this.lastNs, from + steps[event.key] * 0.2 * NS));
      if (event.shiftKey) {
        const [start, end] = this.selected ?? [from, from];
        const fixed = Math.abs(from - start) < Math.abs(from - end) ? end : start;
        this.select([Math.min(fixed, to), Math.max(fixed, to)]);
      }
      this.cursorNs = to;
    } else return;
    event.preventDefault();
    this.draw();
  }

  select(span) {
    this.selected = span;
    this.onSelect(span);
  }

  // The row under the cursor.
  get under() {
    if (this.cursorNs === null) return null;
    const rows = this.store.between(this.cursorNs - 0.3 * NS, this.cursorNs + 0.3 * NS);
    return rows.reduce((best, row) => (best === null || Math.abs(row[END] - this.cursorNs) < Math.abs(best[END] - this.cursorNs) ? row : best), null);
  }

  limits(rows) {
    if (!this.store.regression) return [0, 1];
    const most = rows.reduce((found, row) => Math.max(found, Math.abs(row[SCORES][0] ?? 0)), 3);
    return [-Math.ceil(most), Math.ceil(most)];
  }

  draw() {
    const place = canvas2d(this.canvas);
    if (place === null) return;
    const { pen, width, height } = place;
    this.width = width;
    const rows = this.store.between(this.firstNs - NS, this.lastNs);
    const [low, high] = this.limits(rows);
    const y = (value) => height - EDGE.bottom - ((value - low) / (high - low)) * (height - EDGE.top - EDGE.bottom);
    this.axes(pen, width, height, low, high, y);
    pen.save();
    pen.beginPath();
    pen.rect(EDGE.left, 0, width - EDGE.left - EDGE.right, height - EDGE.bottom + 2);
    pen.clip();
    this.span(pen, height);
    const names = this.store.regression ? ["value"] : this.store.labels;
    const top = rows.length ? rows[rows.length - 1][LABEL] : null;
    const order = names.map((_, index) => index).sort((one, other) => (names[one] === top) - (names[other] === top));
    for (const index of order) this.curve(pen, rows, index, y, names[index] === top || this.store.regression);
    this.mark(pen, height, names, y);
    pen.restore();
  }

  axes(pen, width, height, low, high, y) {
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("--soft");
    pen.strokeStyle = colour("--line");
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (let step = 0; step <= 4; step += 1) {
      const value = low + ((high - low) * step) / 4;
      pen.fillText(low < 0 ? String(Math.round(value * 10) / 10) : value.toFixed(2), EDGE.left - 6, y(value));
      pen.beginPath();
      pen.moveTo(EDGE.left, Math.round(y(value)) + 0.5);
      pen.lineTo(width - EDGE.right, Math.round(y(value)) + 0.5);
      pen.stroke();
    }
    if (!this.store.rows.length) return;
    const every = [5, 10, 15, 30, 60, 120].find((step) => (this.spanS / step) * 62 < width) ?? 300;
    pen.textBaseline = "alphabetic";
    const origin = this.store.session ? this.store.session.origin_ns - (Date.parse(this.store.session.started_at) % 3600000) * 1e6 : 0;
    for (let at = origin + Math.ceil((this.firstNs - origin) / (every * NS)) * every * NS; at <= this.lastNs; at += every * NS) {
      const date = this.store.date(at);
      const x = this.x(at);
      pen.textAlign = "center";
      if (x > EDGE.left + 12 && x < width - 28) pen.fillText(date ? clock(date) : `${Math.round((at - this.store.newestNs) / NS)} s`, x, height - 7);
      pen.fillRect(Math.round(x), height - EDGE.bottom, 1, 4);
    }
  }

  span(pen, height) {
    if (!this.selected) return;
    pen.fillStyle = colour("--select");
    pen.fillRect(this.x(this.selected[0]), EDGE.top, this.x(this.selected[1]) - this.x(this.selected[0]), height - EDGE.top - EDGE.bottom);
  }

  curve(pen, rows, index, y, strong) {
    pen.strokeStyle = colour(`--c${(this.store.regression ? 1 : index) % 8}`);
    pen.lineWidth = strong ? 2.6 : 1.5;
    pen.lineJoin = "round";
    pen.setLineDash(this.store.regression ? [] : DASHES[index % DASHES.length]);
    pen.beginPath();
    let last = null;
    for (const row of rows) {
      const value = row[SCORES][index];
      if (value === null || value === undefined) last = null;
      else {
        if (last === null || row[END] - last > GAP_NS) pen.moveTo(this.x(row[END]), y(value));
        else pen.lineTo(this.x(row[END]), y(value));
        last = row[END];
      }
    }
    pen.stroke();
    pen.setLineDash([]);
  }

  mark(pen, height, names, y) {
    const row = this.under;
    if (row === null) return;
    const x = this.x(row[END]);
    pen.strokeStyle = colour("--soft");
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(Math.round(x) + 0.5, EDGE.top);
    pen.lineTo(Math.round(x) + 0.5, height - EDGE.bottom);
    pen.stroke();
    const format = this.store.regression ? signed : number;
    const date = this.store.date(row[END]);
    const ranked = names.map((name, index) => [row[SCORES][index] ?? -9, name, index]).sort((one, other) => other[0] - one[0]).slice(0, 3);
    const lines = [date ? clock(date) : `seq ${row[0]}`, ...ranked.map(([value, name]) => `${name} ${value === -9 ? "–" : format(value)}`)];
    pen.font = "12px system-ui, sans-serif";
    const wide = Math.max(...lines.map((line) => pen.measureText(line).width)) + 16;
    const left = x + 10 + wide > this.width - EDGE.right ? x - 10 - wide : x + 10;
    pen.fillStyle = colour("--card");
    pen.strokeStyle = colour("--line");
    pen.beginPath();
    pen.roundRect(left, EDGE.top + 2, wide, lines.length * 17 + 8, 6);
    pen.fill();
    pen.stroke();
    pen.textAlign = "left";
    pen.textBaseline = "alphabetic";
    lines.forEach((line, index) => {
      pen.fillStyle = colour(index ? `--c${(this.store.regression ? 1 : ranked[index - 1][2]) % 8}` : "--text");
      pen.fillText(line, left + 8, EDGE.top + 18 + index * 17);
    });
    ranked.forEach(([value, , index]) => {
      if (value === -9) return;
      pen.fillStyle = colour(`--c${(this.store.regression ? 1 : index) % 8}`);
      pen.beginPath();
      pen.arc(x, y(value), 3.5, 0, 7);
      pen.fill();
    });
  }
}
