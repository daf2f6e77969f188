"""konv against the peers installed: `konv bench` from a clone, whether konv is installed or not.

python bench/run.py                                       all of problems/article.txt
python bench/run.py problems/article.txt --only depthwise --help tells the rest
python bench/run.py bench/results/NAME.json               shows a report that was kept
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from konv.cli import app

if __name__ == "__main__":
    app(["bench", *sys.argv[1:]], prog_name="konv")
