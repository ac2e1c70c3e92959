"""Ten lines of plain pyzmq: the newest prediction. `python subscribe.py ENDPOINT [STREAM [SECONDS_OF_WORK]]`"""

import json
import sys
import time

import zmq

endpoint, stream, work_s = sys.argv[1:] + ["default", "0"][len(sys.argv) - 2 :]
subscriber = zmq.Context().socket(zmq.SUB)
subscriber.setsockopt(zmq.CONFLATE, 1)  # before connect; one topic per socket
subscriber.setsockopt(zmq.SUBSCRIBE, f"clcr/{stream}/prediction ".encode())
subscriber.connect(endpoint)
while True:
    prediction = json.loads(subscriber.recv().split(b" ", 1)[1])
    age_ms = (time.monotonic_ns() - prediction["published_ns"]) / 1e6
    print(prediction["seq"], prediction["label"], prediction["probs"], f"age {age_ms:.1f} ms", flush=True)
    time.sleep(float(work_s))  # stands for what you do with it
