"""Training over slow networks, measured: two network namespaces of this machine are two hosts.

    python -m benchmarks.networks --folder ptb --out networks.json

Needs Linux, root (or the capabilities to make namespaces and TUN devices), iproute2 and MPICH,
whose launcher starts a rank in each namespace. All packets between the two go through a process
that lets so many bits a second pass and hands each on after a delay: what `tc netem` does, on
kernels without it, too. One process alone, then two ranks with gradients in every step, in 16 bits,
and in rounds, beside what the model of `benchmarks.scaling` predicts for that network.
"""

import argparse
import contextlib
import fcntl
import json
import os
import select
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks import scaling
from rnnfast import data, io

RATE = 100e6  # bits a second
DELAYS = 0.001, 0.05  # seconds, one way
EVERY = 100  # updates of a round
CASES = {
    "every step": {"every": 1, "half": False},
    "every step, 16 bits": {"every": 1, "half": True},
    f"rounds of {EVERY}": {"every": EVERY, "half": False},
    f"rounds of {EVERY}, 16 bits": {"every": EVERY, "half": True},
}
MTU = 9000  # bytes; larger packets than usual, so that passing them on takes little of a processor
ROOM = 2_000_000  # bytes that wait before a line, as in a router
ADDRESSES = "10.99.0.1", "10.99.0.2"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
STEPS = 20  # without rounds


class Line:
    """One direction of a network: what is sent leaves at a rate, and arrives after a delay.

    Parameters
    ----------
    rate : float
        Bits a second.
    delay : float
        Seconds.
    """

    def __init__(self, rate, delay):
        self.rate, self.delay = rate, delay
        self._free = 0.0  # when the last packet will have left
        self._packets = deque()  # (when it arrives, packet)

    def send(self, packet, now):
        self._free = max(self._free, now) + 8 * len(packet) / self.rate
        self._packets.append((self._free + self.delay, packet))

    def full(self, now):
        """Whether no more packets should be sent, as those before them have not left."""
        return (self._free - now) * self.rate / 8 > ROOM

    def arrived(self, now):
        """Packets that arrive until now, in their order."""
        while self._packets and self._packets[0][0] <= now:
            yield self._packets.popleft()[1]

    def next(self, now):
        """Seconds until something happens: a packet arrives, or there is room again."""
        waits = [self._packets[0][0] - now] if self._packets else []
        if self.full(now):
            waits.append(self._free - now - 8 * ROOM / self.rate)
        return max(0.0, min(waits)) if waits else None


def relay(ends, rate, delay):
    """Hand packets from each of two TUN devices to the other, for ever."""
    with contextlib.suppress(OSError):
        os.nice(-10)  # a late packet would be a slower network
    lines = {a: (b, Line(rate, delay)) for a, b in (ends, ends[::-1])}
    while True:
        now = time.monotonic()
        waits = [line.next(now) for _, line in lines.values()]
        ready = [a for a, (_, line) in lines.items() if not line.full(now)]
        timeout = min((wait for wait in waits if wait is not None), default=None)
        readable = select.select(ready, [], [], timeout)[0]
        now = time.monotonic()
        for end in readable:
            lines[end][1].send(os.read(end, MTU + 100), now)
        for other, line in lines.values():
            for packet in line.arrived(now):
                os.write(other, packet)


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, encoding="utf-8")


def tun(name):
    """A TUN device; -> its file descriptor, which is used from any namespace."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    os.set_inheritable(end, True)
    return end


@contextlib.contextmanager
def two_hosts(rate, delay):
    """Two network namespaces with such a network between them; -> their names."""
    names = [f"rnnfast-{os.getpid()}-{k}" for k in (1, 2)]
    ends, process = [], None
    try:
        for k, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
            device = f"rnn{k}-{os.getpid() % 10**8}"
            _ip("netns", "add", name)
            ends.append(tun(device))
            _ip("link", "set", device, "netns", name)
            _ip("-n", name, "link", "set", "lo", "up")
            peer = ADDRESSES[1 - k]
            _ip("-n", name, "addr", "add", address, "peer", peer, "dev", device)
            _ip("-n", name, "link", "set", device, "mtu", str(MTU), "up")
        command = [sys.executable, "-m", "benchmarks.networks", "--relay"]
        given = [*map(str, ends), str(rate), str(delay)]
        process = subprocess.Popen([*command, *given], pass_fds=ends)
        yield names
    finally:
        if process is not None:
            process.kill()
            process.wait()
        for end in ends:
            os.close(end)
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


def on_two_hosts(names, arguments):
    """stdout of a Python program with a rank in each namespace."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = Path(folder, "launcher")  # what hydra calls in the place of ssh: HOST COMMAND
        launcher.write_text(
            "#!/bin/sh\n"
            f'while [ "$1" != {ADDRESSES[1]} ]; do shift; done\nshift\n'
            f'exec ip netns exec {names[1]} sh -c "$*"\n'
        )
        launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
        command = ["ip", "netns", "exec", names[0], scaling.mpiexec()]
        command += ["-launcher", "ssh", "-launcher-exec", str(launcher)]
        command += ["-localhost", ADDRESSES[0], "-hosts", ",".join(ADDRESSES), "-ppn", "1"]
        command += ["-n", "2", sys.executable, *arguments]
        no_shared_memory = {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self", "FI_PROVIDER": "tcp"}
        env = os.environ | no_shared_memory
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=env, check=False)
    if done.returncode:
        raise RuntimeError(f"two hosts: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def network_of(rate, delay):
    """What the model knows of a network."""
    return scaling.Network(delay, rate / 8)


def predicted(work, network, every, half):
    """Seconds of a step of two ranks: as scaling.step_time, with 16 bits of what has them."""
    if half:
        rows = work.row / 2 if every > 1 else work.row  # gradients of rows keep all their bits
        work = replace(work, dense=work.dense / 2, row=rows)
    return scaling.step_time(work, network, 2, scaling.N // 2, every)


def measure(folder, name, rate, steps):
    """A workload of one process with half of the processors, and all cases over all networks."""
    corpus = data.load_ptb("train", folder)[0]
    counts = np.sort(np.bincount(corpus))[::-1]
    work, whole = scaling.alone(name, corpus, (counts / counts.sum()).tolist(), 50)
    cases = []
    for delay in DELAYS:
        with two_hosts(rate, delay) as names:
            for label, options in CASES.items():
                count = max(steps, 2 * options["every"]) if options["every"] > 1 else steps
                given = [folder, name, str(count), "--every", str(options["every"])]
                given += ["--half"] if options["half"] else []
                program = ["-m", "benchmarks.scaling", "rank", *given]
                found = json.loads(on_two_hosts(names, program).splitlines()[-1])
                expected = predicted(work, network_of(rate, delay), **options)
                cases.append({"delay": delay, "case": label, **found, "predicted": expected})
                print(line(name, whole, cases[-1]), flush=True)
    sizes = {key: value for key, value in asdict(work).items() if key != "frequencies"}
    return {"workload": sizes, "alone": whole, "cases": cases}


def line(name, alone, case):
    """What was measured of a case, and predicted."""
    words = scaling.N * scaling.T
    return (
        f"{name}, {1000 * case['delay']:g} ms, {case['case']}: {words / case['mean']:,.0f} words/s "
        f"(predicted {words / case['predicted']:,.0f}, one process {words / alone:,.0f})"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="ptb", help="where ptb.train.txt is")
    parser.add_argument("--models", nargs="+", choices=tuple(scaling.MODELS), default=["Rnnlm"])
    parser.add_argument("--steps", type=int, default=STEPS, help="without rounds")
    parser.add_argument("--out", help="JSON to write")
    parser.add_argument("--relay", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.relay:
        *ends, rate, delay = options.relay
        return relay(tuple(map(int, ends)), float(rate), float(delay))
    busy = os.getloadavg()[0]
    found = {}
    for name in options.models:
        found[name] = measure(options.folder, name, RATE, options.steps)
    if options.out:
        from benchmarks.machine import describe  # needs what the extra `bench` has

        whole = {"machine": describe(), "load before": busy, "rate": RATE, "models": found}
        io.write_atomically(options.out, (json.dumps(whole, indent=1) + "\n").encode())
    return None


if __name__ == "__main__":
    sys.exit(main())
