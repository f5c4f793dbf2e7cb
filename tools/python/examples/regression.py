#!/usr/bin/python3
"""Nadaraya-Watson regression on live data.

Measurements of an unknown curve arrive all the time, the newest replacing the oldest, while estimates of the curve are read. The
estimate at x is the mean of the measurements y_l with the weights exp(-(x - x_l)^2 / (2 h^2)). As attention: scale 1/h^2
and the key bias -x_l^2 / (2 h^2) give that weight up to a factor of x alone, which cancels.

    regression.py arrays DIR      write Q.npy K.npy V.npy B.npy, and say how to start attnd
    regression.py run [SOCKET]    feed measurements of a curve that drifts, and watch the estimates follow it
"""

import sys

import numpy as np

import attn

H = 0.1  # the width of the kernel
POINTS, GRID = 400, 41  # measurements that are kept; places where the curve is estimated
generator = np.random.default_rng(1)


def bias(x):
    return -np.square(x) / (2 * H * H)


def curve(x, phase):
    return np.sin(3 * x + phase)


def measure(count, phase):
    x = generator.uniform(-1, 1, count).astype(np.float32)
    return x, (curve(x, phase) + generator.normal(0, 0.1, count)).astype(np.float32)


def write_arrays(directory):
    x, y = measure(POINTS, 0)
    np.save(f"{directory}/Q.npy", np.linspace(-1, 1, GRID, dtype=np.float32)[:, np.newaxis])
    np.save(f"{directory}/K.npy", x[:, np.newaxis])
    np.save(f"{directory}/V.npy", y[:, np.newaxis])
    np.save(f"{directory}/B.npy", bias(x).astype(np.float32))
    print(f"attnd --dir state --q {directory}/Q.npy --k {directory}/K.npy --v {directory}/V.npy "
          f"--bias {directory}/B.npy --scale {1 / (H * H):g}")


def run(socket):
    grid = np.linspace(-1, 1, GRID)
    oldest = 0
    with attn.Client(socket) as client:
        for phase in np.linspace(0, 1, 6):
            x, y = measure(POINTS, phase)
            tokens = (oldest + np.arange(POINTS)) % POINTS  # the newest in the place of the oldest
            client.set_tokens(tokens, keys=x[:, np.newaxis], values=y[:, np.newaxis], biases=bias(x))
            oldest = (oldest + POINTS) % POINTS
            estimate = client.column(0)
            far = np.sqrt(np.mean(np.square(estimate.values - curve(grid, phase))))
            print(f"phase {phase:.1f}: {far:.3f} from the curve (noise 0.1), errors below {estimate.error_bound.max():.1g}")
    return far < 0.1


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "arrays":
        write_arrays(sys.argv[2])
    elif 2 <= len(sys.argv) <= 3 and sys.argv[1] == "run":
        sys.exit(0 if run(sys.argv[2] if len(sys.argv) == 3 else None) else 1)
    else:
        sys.exit(__doc__)
