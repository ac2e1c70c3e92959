"""Read predictions, words and changes of expression beside other work of an asyncio program.

    python examples/asyncio_reader.py [ENDPOINT [STREAM]]

Without an endpoint it reads the user's own session. Nothing here starts a thread or blocks the event loop.
"""

import asyncio
import signal
import sys

from clcr_stream.client import AsyncSubscriber, Event, Prediction, Transcript


async def read(endpoint: str | None, stream: str) -> None:
    """Print what comes; a prediction older than 400 ms is not given."""
    async with AsyncSubscriber(endpoint, stream, ("prediction", "transcript", "event"), lifespan_ms=400) as subscriber:
        async for received in subscriber:
            match received.message:
                case Prediction(label=str(label), confidence=float(confidence), degraded=degraded):
                    print(f"{label} {confidence:.2f} {','.join(degraded)} {received.missed} missed", flush=True)
                case Transcript(text=text, final=True):
                    print(f"said: {text!r}", flush=True)
                case Event(label=label, reason=reason):
                    print(f"changed to {label or reason}", flush=True)


async def other_work() -> None:
    """Stands for the rest of the program."""
    while True:
        await asyncio.sleep(1)
        print("still here", flush=True)


async def main(endpoint: str | None = None, stream: str = "default") -> None:
    """Both at once."""
    await asyncio.gather(read(endpoint, stream), other_work())


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when `| head` has seen enough
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
