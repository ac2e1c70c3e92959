// What the page knows of the stream that it watches: ten minutes of moments, the newest messages, the words.
// A moment is a row of the server: [seq, end_ns, label, confidence, scores, latency_ms, omega, beta, eta, quality, coverage, active, degraded].

export const SEQ = 0, END = 1, LABEL = 2, CONFIDENCE = 3, SCORES = 4, LATENCY = 5;
const MAX_WORDS = 256;

export class Store {
  constructor() {
    this.clear();
  }

  clear() {
    Object.assign(this, { stream: null, labels: [], rows: [], session: null, status: null, prediction: null, tokens: null, face: null, waiting: "", recording: "", keptNs: 600e9, missed: 0 });
    this.words = new Map();
  }

  whole(message) {
    this.clear();
    this.stream = message.stream;
    this.labels = message.labels;
    this.rows = message.rows;
    this.keptNs = message.kept_s * 1e9;
    for (const name of ["session", "status", "prediction", "waiting", "recording"]) this[name] = message[name];
    for (const segment of message.words) this.words.set(segment.id, segment);
    if (!this.labels.length && this.prediction && this.prediction.probs) this.labels = Object.keys(this.prediction.probs);
  }

  update(message) {
    if (message.stream !== this.stream) return;
    const run = (message.prediction || message.session || message.status || {}).session;
    const before = (this.prediction || this.session || this.status || {}).session;
    if (run && before && run !== before) {
      this.words.clear();
      this.tokens = this.face = null;
    }
    if (message.session) {
      this.session = message.session;
      this.labels = message.session.labels;
    }
    for (const name of ["status", "prediction", "tokens", "face", "waiting", "recording"]) if (message[name] !== undefined) this[name] = message[name];
    if (!this.labels.length && this.prediction && this.prediction.probs) this.labels = Object.keys(this.prediction.probs);
    for (const row of message.rows || []) this.add(row);
    for (const segment of message.words || []) {
      this.words.set(segment.id, segment);
      if (this.words.size > MAX_WORDS) this.words.delete(this.words.keys().next().value);
    }
  }

  add(row) {
    const last = this.rows[this.rows.length - 1];
    if (last && (row[END] <= last[END] || row[SCORES].length !== last[SCORES].length)) this.rows = [];
    this.rows.push(row);
    let old = 0;
    while (this.rows[old][END] <= row[END] - this.keptNs) old += 1;
    if (old > 50) this.rows = this.rows.slice(old);
  }

  get newestNs() {
    return this.rows.length ? this.rows[this.rows.length - 1][END] : 0;
  }

  get oldestNs() {
    return this.rows.length ? this.rows[0][END] : 0;
  }

  get regression() {
    return this.session ? this.session.task === "regression" : this.prediction !== null && !this.prediction.probs;
  }

  // Rows with END in (first, last], found by halving.
  between(firstNs, lastNs) {
    const at = (limit) => {
      let [low, high] = [0, this.rows.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.rows[middle][END] <= limit) low = middle + 1;
        else high = middle;
      }
      return low;
    };
    return this.rows.slice(at(firstNs), at(lastNs));
  }

  // A monotonic time of the session's host as a Date; null before the session message.
  date(ns) {
    return this.session ? new Date(Date.parse(this.session.started_at) + (ns - this.session.origin_ns) / 1e6) : null;
  }

  get sortedWords() {
    return [...this.words.values()].sort((one, other) => one.start_ns - other.start_ns || one.end_ns - other.end_ns);
  }
}
