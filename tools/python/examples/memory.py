#!/usr/bin/python3
"""A memory of the last N things: a sliding window.

Each thing has a key (what it looks like) and a value (what is to be remembered of it). When the memory is full, a new thing takes
the place of the oldest. Recalling is attention: a row of Q is set to what is looked for, and the answer is a mean of the
values, weighted by how alike the keys are.

    memory.py arrays DIR      write Q.npy K.npy V.npy of an empty memory, and say how to start attnd
    memory.py run [SOCKET]    remember ten times as many things as there is room for, recalling on the way
"""

import sys

import numpy as np

import attn

ROOM, D, D_V, SHARPNESS = 256, 32, 8, 20.0


class Memory:
    """Remembers the last `room` things, in the tokens 0 .. room - 1."""

    def __init__(self, client, room=ROOM):
        self.client = client
        self.room = room
        self.count = 0

    def remember(self, key, value):
        self.client.set_token(self.count % self.room, key=key, value=value, bias=0)
        self.count += 1

    def recall(self, key):
        """What is remembered of things like this; None of an empty memory."""
        self.client.set_query(0, key)
        try:
            return self.client.row(0).values
        except attn.ATT_EMPTY:
            return None


def write_arrays(directory):
    # A token whose bias is -inf is not there yet.
    np.save(f"{directory}/Q.npy", np.zeros((1, D), np.float32))
    np.save(f"{directory}/K.npy", np.zeros((ROOM, D), np.float32))
    np.save(f"{directory}/V.npy", np.zeros((ROOM, D_V), np.float32))
    np.save(f"{directory}/B.npy", np.full(ROOM, -np.inf, np.float32))
    print(f"attnd --dir state --q {directory}/Q.npy --k {directory}/K.npy --v {directory}/V.npy "
          f"--bias {directory}/B.npy --scale {SHARPNESS:g}")


def run(socket):
    generator = np.random.default_rng(1)
    count = 10 * ROOM
    keys = generator.normal(size=(count, D)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    values = generator.normal(size=(count, D_V)).astype(np.float32)
    recent, lost = [], []
    with attn.Client(socket) as client:
        memory = Memory(client)
        print("before anything is remembered:", memory.recall(keys[0]))
        for i in range(count):
            memory.remember(keys[i], values[i])
            if i % 100 == 99 and i >= ROOM + 100:
                recent.append(np.abs(memory.recall(keys[i - 50]) - values[i - 50]).max())
                lost.append(np.abs(memory.recall(keys[i - ROOM - 50]) - values[i - ROOM - 50]).max())
    print(f"{count} things; recalled 50 later: at most {max(recent):.3f} off; when overwritten: {np.mean(lost):.2f} off")
    return max(recent) < 0.1 < np.mean(lost)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "arrays":
        write_arrays(sys.argv[2])
    elif 2 <= len(sys.argv) <= 3 and sys.argv[1] == "run":
        sys.exit(0 if run(sys.argv[2] if len(sys.argv) == 3 else None) else 1)
    else:
        sys.exit(__doc__)
