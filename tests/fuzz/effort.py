"""How long the properties of this folder are tried: briefly among all tests, at length under `make fuzz`.

Brief runs draw the same examples every time, so that nobody's change fails by chance; long ones draw new ones.
"""

import os

from hypothesis import HealthCheck, Phase, settings

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
PHASES = (Phase.explicit, Phase.generate)
"""Nothing is shrunk: an example may be a whole life of a daemon, and takes its time."""
UNHURRIED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


def tried(examples):
    """`examples` times among all tests, FUZZ_FACTOR times as often under `make fuzz`."""
    return settings(
        max_examples=examples * FACTOR, deadline=None, derandomize=FACTOR == 1, database=None,
        suppress_health_check=UNHURRIED, print_blob=True, report_multiple_bugs=False, phases=PHASES,
    )  # fmt: skip
