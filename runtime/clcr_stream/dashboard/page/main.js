// The page: a link to the server, a store, and cards that are drawn when something is new.

import { Chart } from "./chart.js";
import { NS, clock, element, text } from "./format.js";
import { Lanes } from "./lanes.js";
import { Link, takeToken } from "./link.js";
import { Panels, stateOf } from "./panels.js";
import { Store } from "./store.js";

const byId = (name) => document.getElementById(name);
const store = new Store();
const panels = new Panels();
const lanes = new Lanes(byId("lanes"), byId("window-note"), byId("ramp"));
const chart = new Chart(byId("chart"), store, showSelection);
const token = takeToken();
let [names, nothing, connection, asked, summaryAt] = [[], "", "connecting", false, 0];

function showSelection(span) {
  const chosen = span !== null;
  byId("clear").hidden = !chosen;
  const from = chosen && store.date(span[0]);
  const hint = "Drag over the curve to select a span.";
  text(byId("selection"), chosen ? `Selected ${((span[1] - span[0]) / NS).toFixed(1)} s${from ? `, ${clock(from)} to ${clock(store.date(span[1]))}` : ""}` : hint);
  text(byId("export"), chosen ? "Export selection as CSV" : "Export CSV");
}

function draw() {
  asked = false;
  const [state, about] = connection === "open" ? (store.stream === null ? ["waiting", nothing || "waiting"] : stateOf(store)) : ["waiting", connection];
  byId("state").dataset.state = state;
  text(byId("state-text"), state === "waiting" ? "waiting" : about);
  const banner = state === "waiting" && about !== "connected" ? about : store.missed ? `This browser was too slow for ${store.missed} updates; the newest are shown.` : "";
  text(byId("banner"), banner);
  byId("banner").hidden = banner === "";
  const recording = connection === "open" ? store.recording : "";
  text(byId("recording"), recording);
  byId("recording").hidden = recording === "";
  scrollBounds();
  panels.draw(store);
  lanes.draw(store);
  chart.draw();
  const now = performance.now();
  if (now - summaryAt > 5000 && store.prediction) {
    summaryAt = now;
    const answer = store.regression ? `value ${store.prediction.value}` : store.prediction.label;
    byId("chart").setAttribute("aria-label", `${store.regression ? "Value" : "Probabilities"} over the last ${chart.spanS} seconds; now ${answer ?? "no answer"}`);
  }
}

function ask() {
  if (!asked) {
    asked = true;
    requestAnimationFrame(draw);
  }
}

function scrollBounds() {
  const slider = byId("scroll");
  const most = Math.max(0, Math.ceil((store.newestNs - store.oldestNs) / NS - chart.spanS));
  slider.max = String(most);
  chart.backNs = Math.min(chart.backNs, most * NS);
  slider.value = String(most - Math.round(chart.backNs / NS));
  slider.disabled = most === 0;
  slider.setAttribute("aria-valuetext", chart.backNs ? `${Math.round(chart.backNs / NS)} seconds ago` : "live");
  byId("live").setAttribute("aria-pressed", String(chart.backNs === 0));
}

function showStreams() {
  const root = byId("streams");
  const before = root.contains(document.activeElement);
  root.replaceChildren(
    ...names.map((name) => {
      const chosen = name === store.stream || name === link.wanted;
      const tab = element("button", { type: "button", role: "tab", "aria-selected": String(chosen), tabindex: chosen ? "0" : "-1" }, name);
      tab.addEventListener("click", () => choose(name));
      return tab;
    }),
  );
  if (before) root.querySelector('[aria-selected="true"]')?.focus();
}

function choose(name) {
  if (name === link.wanted) return;
  chart.backNs = 0;
  chart.select(null);
  link.watch(name);
  showStreams();
}

byId("streams").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step === undefined || !names.length) return;
  event.preventDefault();
  choose(names[(names.indexOf(link.wanted) + step + names.length) % names.length]);
});

// While the past is shown it stays where it is.
function keepPlace(before) {
  if (chart.backNs > 0) chart.backNs += store.newestNs - before;
}

function onMessage(message) {
  const before = store.newestNs;
  if (message.type === "streams") {
    [names, nothing] = [message.names, message.waiting];
    if (link.wanted === null && names.length) link.watch(names[0]);
    showStreams();
  } else if (message.type === "whole") {
    store.whole(message);
    showStreams();
  } else if (message.type === "update") {
    store.update(message);
    if (before) keepPlace(before);
  } else if (message.type === "missed") store.missed += message.updates;
  ask();
}

for (const button of document.querySelectorAll("[data-span]")) {
  button.addEventListener("click", () => {
    chart.spanS = Number(button.dataset.span);
    for (const other of document.querySelectorAll("[data-span]")) other.setAttribute("aria-pressed", String(other === button));
    ask();
  });
}
byId("scroll").addEventListener("input", (event) => {
  chart.backNs = (Number(event.target.max) - Number(event.target.value)) * NS;
  ask();
});
byId("live").addEventListener("click", () => {
  chart.backNs = 0;
  ask();
});
byId("clear").addEventListener("click", () => {
  chart.select(null);
  ask();
});
byId("export").addEventListener("click", async () => {
  const [first, last] = chart.selected ?? [store.oldestNs - 1, store.newestNs];
  const query = new URLSearchParams({ stream: store.stream ?? "", from_ms: String(Math.floor(first / 1e6)), to_ms: String(Math.ceil(last / 1e6)) });
  const answer = await fetch(`/export.csv?${query}`, { headers: { authorization: `Bearer ${token}` } });
  if (!answer.ok) {
    text(byId("selection"), `Not exported: ${(await answer.text()).trim()}`);
    return;
  }
  const anchor = element("a", { href: URL.createObjectURL(await answer.blob()), download: `clcr-${store.stream}.csv` });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
});
window.addEventListener("resize", ask);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  panels.samples();
  ask();
});

const CONNECTIONS = {
  open: "open",
  lost: "The dashboard's server is gone; waiting for it to come back.",
  refused: "No connection: is `clcr-stream view` running? Its address has a new token at each start; open the one that it printed.",
};
let link = { wanted: null, watch: () => {} };
if (token) {
  link = new Link(token, {
    onMessage,
    onState: (state) => {
      connection = CONNECTIONS[state];
      ask();
    },
  });
} else {
  connection = "This address lacks its token: open the one that `clcr-stream view` printed.";
}
ask();
