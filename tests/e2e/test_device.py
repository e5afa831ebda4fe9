"""--device: a card that is not there is refused with the numbers and the remedy."""
import subprocess

from conftest import BATON, MODELS


def refused(*arguments):
    done = subprocess.run([str(BATON), *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    return done.stderr


def test_cards_that_are_not_there_are_refused():
    model = str(MODELS["gqa"])
    for command in (["serve", "--model-path", model, "--port", "0"], ["verify", "--model", model, "--golden", model + "/golden.json"]):
        said = refused(*command, "--device", "cuda", "--base-gpu-id", "1000")
        assert "--device cuda: 1 rank from --base-gpu-id 1000 on, --gpu-id-step 1, needs 1001 GPUs" in said
        assert "--device cpu" in said and "--tp-size" in said


def test_other_devices_are_named():
    said = refused("serve", "--model-path", str(MODELS["gqa"]), "--device", "xpu")
    assert "xpu" in said and "cuda" in said


def test_a_transport_that_does_not_reach_the_pages_is_refused():
    model = str(MODELS["gqa"])
    said = refused("serve", "--model-path", model, "--port", "0", "--device", "cpu", "--disaggregation-mode", "prefill", "--disaggregation-transfer-backend", "cuda_ipc")
    assert "--disaggregation-transfer-backend cuda_ipc does not move pages of cpu" in said and "use shm or tcp" in said
