// Read predictions in a browser, over the WebSocket of `clcr-stream view`.
//
// Start `clcr-stream view`, open the address that it prints, and paste this file into the console of that page (F12), or run it in
// a program of this machine that has WebSocket and sends no Origin, with the token of the address:
//
//     const stop = watchPredictions("default", (p) => console.log(p.seq, p.label, p.confidence), {host: "127.0.0.1:8420", token: "..."});
//
// The dashboard refuses pages of other sites: no other page may read what is said about a person. For your own web
// application, serve a socket of your own from a program that uses clcr_stream.client.

function watchPredictions(stream, onPrediction, options = {}) {
  const host = options.host || location.host;
  const token = options.token || sessionStorage.getItem("clcr-stream-token");
  let socket = null;
  let stopped = false;
  let wait = 300;

  function open() {
    socket = new WebSocket(`ws://${host}/socket?token=${encodeURIComponent(token)}`);
    socket.onopen = () => {
      wait = 300;
      socket.send(JSON.stringify({ watch: stream }));
    };
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      // "whole" comes first, with what is known already; "update" at most ten times a second, with what is new.
      if ((message.type === "whole" || message.type === "update") && message.prediction) onPrediction(message.prediction);
    };
    socket.onclose = () => {
      if (stopped) return;
      setTimeout(open, wait); // the dashboard may come back
      wait = Math.min(2 * wait, 5000);
    };
  }

  open();
  return () => {
    stopped = true;
    socket.close();
  };
}

globalThis.watchPredictions = watchPredictions;
