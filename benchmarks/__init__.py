"""How fast trioipc is, beside what one could take instead: ``python -m benchmarks``."""

import sys

# trio-parallel uses cloudpickle where it is installed (loky needs it), and is slower for it: 101 us
# instead of 90. It shall be as fast as it can, in its workers too, which import this first.
sys.modules.setdefault("cloudpickle", None)  # type: ignore[arg-type]
