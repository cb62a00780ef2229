"""The slow networks of benchmarks/networks.py: what they let pass, and when."""

import subprocess

import numpy as np
import pytest
from ranks import mpi_version, mpiexec

networks = pytest.importorskip("benchmarks.networks", reason="benchmarks are not installed")
scaling = networks.scaling

RATE, DELAY = 8000.0, 0.5  # 1,000 bytes a second


def test_packets_leave_at_a_rate_and_arrive_after_a_delay():
    line = networks.Line(RATE, DELAY)
    assert line.next(10.0) is None
    for k in range(3):
        line.send(bytes([k]) * 100, 10.0)
    line.send(b"late" * 25, 20.0)
    assert line.next(10.0) == pytest.approx(0.6)
    assert list(line.arrived(10.59)) == []
    assert [packet[0] for packet in line.arrived(10.75)] == [0, 1]
    assert [packet[0] for packet in line.arrived(11.0)] == [2]
    assert list(line.arrived(20.59)) == [] and list(line.arrived(20.7)) == [b"late" * 25]


def test_a_line_has_room_for_some_packets(monkeypatch):
    monkeypatch.setattr(networks, "ROOM", 250)
    line = networks.Line(RATE, 100.0)
    for k in range(3):
        assert line.full(0.0) is False, k
        line.send(bytes(100), 0.0)
    assert line.full(0.0) and line.next(0.0) == pytest.approx(0.05) and not line.full(0.051)


def test_16_bits_are_half_of_what_is_sent():
    work = scaling.Workload(0.0, 0.0, 4_000_000, 400, 100, False, [0.01] * 100)
    network = networks.network_of(100e6, 0.001)
    assert (network.latency, network.bandwidth) == (0.001, 12.5e6)
    every, half = (networks.predicted(work, network, 1, half) for half in (False, True))
    assert every - half == pytest.approx(2_000_000 / 12.5e6)
    rounds, half = (networks.predicted(work, network, 100, half) for half in (False, True))
    assert rounds - half == pytest.approx((2_000_000 + 20_000) / 12.5e6 / 100)


SUMS = """
import time
import numpy as np
from mpi4py import MPI

comm, times = MPI.COMM_WORLD, []
for size in (1, 1 << 20):
    array = np.zeros(size, np.uint8)
    for _ in range(3):
        comm.Barrier()
        start = time.perf_counter()
        comm.Allreduce(MPI.IN_PLACE, array)
        times.append(time.perf_counter() - start)
if comm.rank == 0:
    print(*times, sep="\\n", flush=True)
"""


@pytest.mark.rest
def test_two_hosts_are_so_far_apart():
    mpiexec()
    if "MPICH" not in mpi_version():
        pytest.skip("needs MPICH's launcher")
    try:
        with networks.two_hosts(40e6, 0.02) as names:
            said = networks.on_two_hosts(names, ["-c", SUMS])
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces or TUN devices here: {error}")
    times = np.array(said.split(), float)
    assert times.shape == (6,)
    assert times[:3].min() >= 0.02
    assert times[3:].min() >= 0.02 + 8 * (1 << 20) / 40e6 * 0.9  # a burst may have left before
    assert not [name for name in names if name in _namespaces()]


def _namespaces():
    return subprocess.run(["ip", "netns", "list"], capture_output=True, encoding="utf-8").stdout
