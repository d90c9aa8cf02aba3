"The learner and the tagger return the same logits for every architecture (real clips: benchmarks/equality.py)"

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from equality import ARCHS, LIMIT, train_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    "60 made clips as a table, and long ones beside them"
    from audiotag.datasets import read_dataset
    from audiotag.synthetic import make_synthetic
    return read_dataset("urbansound8k", make_synthetic(tmp_path_factory.mktemp("data"), fsd_clips=60, urban_clips=60))


@pytest.mark.parametrize("arch", ARCHS)
def test_both_halves_of_a_bundle_agree(arch, clips, tmp_path):
    bundle = train_bundle(arch, clips.iloc[::2], tmp_path, epochs=10, bs=8)
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); "
        "from pathlib import Path; from equality import compare; "
        "print(json.dumps(compare(Path(sys.argv[2]), json.load(sys.stdin))))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(ROOT / "benchmarks"), str(bundle)],
        input=json.dumps(clips.path[1:40:2].tolist()),
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["with_several_crops"] >= 5 and found["clips"] == 20
    assert found["spread_of_logits"] > 0.01  # it has learned something
    assert max(found["whole_clip"], found["first_crop_by_loader"]) <= LIMIT, found
