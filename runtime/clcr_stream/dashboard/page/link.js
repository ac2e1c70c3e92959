// The WebSocket: opens, asks for a stream, and opens again after a loss, forever.

const TOKEN = "clcr-stream-token";

// The token comes in the part of the address that is not sent to any server; the tab remembers it over a reload.
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(TOKEN, given);
    history.replaceState(null, "", location.pathname);
  }
  return given || sessionStorage.getItem(TOKEN);
}

export class Link {
  constructor(token, { onMessage, onState }) {
    this.token = token;
    this.onMessage = onMessage;
    this.onState = onState;
    this.wanted = null;
    this.wait = 300;
    this.open();
  }

  open() {
    const socket = new WebSocket(`ws://${location.host}/socket?token=${encodeURIComponent(this.token)}`);
    let opened = false;
    this.socket = socket;
    socket.onopen = () => {
      opened = true;
      this.wait = 300;
      this.onState("open");
      if (this.wanted !== null) this.watch(this.wanted);
    };
    socket.onmessage = (event) => this.onMessage(JSON.parse(event.data));
    socket.onclose = () => {
      this.onState(opened ? "lost" : "refused");
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(5000, this.wait * 1.6);
    };
  }

  watch(stream) {
    this.wanted = stream;
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ watch: stream }));
  }
}
