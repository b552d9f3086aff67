"""Start every asynchronous method on 1, 2, 4 and 8 ranks, 100 times: python tests/ranks/stress.py [TIMES].

Not a part of the tests, because that takes more than an hour on two cores. Ends with the first job that
fails, takes too long, or leaves a process behind.
"""

import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIZES = (1, 2, 4, 8)


def main(times):
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
    import launching
    from test_asynchrony import ENDS, training

    longest = dict.fromkeys(SIZES, 0.0)
    for number in range(1, times + 1):
        for size in SIZES:
            words = json.dumps([training(size, each, 24, 2) for each in ENDS])
            begun = time.monotonic()
            finished = launching.run_ranks(size, [HERE / "job_asynchrony.py", words], timeout_s=120)
            longest[size] = max(longest[size], time.monotonic() - begun)
            assert (finished.returncode, finished.left_behind) == (0, []), finished.printed
        told = ", ".join(f"{size} ranks {seconds:.0f} s" for size, seconds in longest.items())
        print(f"{number} of {times} in order; the longest took: {told}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
