from __future__ import annotations

from benchmarks.throughput.meters import CONTROL, ProcessUsage, StreamReading, Usage, parse_stat

# pid (comm with odd characters) state ppid … utime stime cutime cstime … starttime vsize rss
STAT = "7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 150 50 900 100 20 0 1 0 4242 1000 256 0 0"


def test_processor_time_and_memory_are_read_past_an_odd_name() -> None:
    assert parse_stat(STAT, with_buried=False) == (4242, 2.0, 1.0)
    assert parse_stat(STAT, with_buried=True) == (4242, 12.0, 1.0)


def usage(**processes: tuple[int, str, float]) -> Usage:
    return Usage(
        {
            (int(name[1:]), began): ProcessUsage(owner, cpu, 10.0)
            for name, (began, owner, cpu) in processes.items()
        }
    )


def test_a_process_that_began_in_between_counts_whole_and_a_reused_pid_is_another() -> None:
    before = usage(p1=(1, "kafka", 5.0), p2=(2, "cassandra", 9.0), p3=(1, CONTROL, 1.0))
    after = usage(p1=(1, "kafka", 6.0), p2=(8, "cassandra", 0.5), p3=(1, CONTROL, 3.0), p4=(9, "kafka", 0.25))
    assert after.cpu_since(before) == {"kafka": 1.25, "cassandra": 0.5, CONTROL: 2.0}
    assert after.fleet_cpu_since(before) == 1.75
    assert after.rss_mib() == {"kafka": 20.0, "cassandra": 10.0, CONTROL: 10.0}


def test_lag_is_what_is_produced_and_not_stored() -> None:
    assert StreamReading(0.0, 10, 4).lag == 6
    assert StreamReading(0.0, 3, 4).lag == 0  # read a moment after the ends
