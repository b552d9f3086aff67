import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The set-up is a folder of scripts, not a package: Python finds its modules beside the one that is started.
sys.path.insert(0, str(ROOT / "install"))
