"""A notebook's cells (# %%): the stream runs behind them, and each cell looks when it likes.

Jupyter, VS Code and Spyder show the cells; `python examples/embed_notebook.py` runs them one after the other.
"""

# %% Start watching. Here a drawn person; yours is clcr_stream.open(camera="0", microphone="default").
import clcr_stream

stream = clcr_stream.open(input="test://", duration_s=5)
print(stream.session.labels, *stream.session.intended_use.notice.split()[:5], "...")

# %% The newest prediction. Run this cell again for another one.
prediction = stream.read(timeout_s=10)
if prediction is not None:
    print(prediction.seq, prediction.label, prediction.confidence, prediction.degraded)

# %% Three seconds as a list; a table or a plot takes it from here.
rows = [(one.seq, one.label, one.probs) for one, _ in zip(stream, range(15), strict=False)]
print(len(rows), "predictions,", stream.missed, "missed")

# %% How the inputs are doing, and the account of all ticks.
print([(source.kind, source.state) for source in stream.sources()], stream.ticks())

# %% The camera is free again.
stream.close()
