"""SIGTERM: what has begun is finished, what comes is sent elsewhere."""
import os
import signal
import threading

import pytest

from conftest import MODELS, Stream, call, metric, wait_until


def generate(url):
    return call(url + "/generate", {"text": "Hi", "sampling_params": {"max_new_tokens": 2}})


def test_a_stream_is_finished_and_new_work_refused(start):
    server = start("serve", "--model-path", MODELS["gqa"])
    stream = Stream(server.url, 3000)
    stream.wait_begun()
    server.signal(signal.SIGTERM)
    wait_until(lambda: call(server.url + "/readiness")[0] == 503)
    status, text, headers = generate(server.url)
    assert status == 503 and "shutting down" in text and headers["Retry-After"], (status, text)
    assert headers["Connection"] == "close"
    assert call(server.url + "/health")[0] == 503 and call(server.url + "/liveness")[0] == 200
    assert not any("[DONE]" in event for event in stream.events), "the stream ended before anything was tried"
    stream.wait_end(120)
    assert stream.tokens() == 3000
    assert server.ended() == 0


def test_a_second_signal_ends_at_once(start):
    server = start("serve", "--model-path", MODELS["gqa"])
    stream = Stream(server.url, 3000)
    stream.wait_begun()
    server.signal(signal.SIGTERM)
    wait_until(lambda: call(server.url + "/readiness")[0] == 503)
    server.signal(signal.SIGTERM)
    assert server.ended(10) == 1
    stream.wait_end(10)
    assert stream.error() == 503


def test_what_takes_longer_than_the_drain_timeout_is_cut_off(start):
    server = start("serve", "--model-path", MODELS["gqa"], "--drain-timeout", "0.3")
    stream = Stream(server.url, 3500)
    stream.wait_begun()
    server.signal(signal.SIGTERM)
    assert server.ended() == 1
    stream.wait_end(10)
    assert stream.error() == 503


def test_a_router_finishes_its_calls(pair):
    prefill, (decode,), router = pair()
    stream = Stream(router.url, 2000)
    stream.wait_begun()
    router.signal(signal.SIGTERM)
    wait_until(lambda: call(router.url + "/readiness")[0] == 503)
    status, _, headers = generate(router.url)
    assert status == 503 and headers["Retry-After"]
    stream.wait_end(120)
    assert stream.tokens() == 2000
    assert router.ended() == 0


@pytest.mark.parametrize("again", [signal.SIGTERM, None])
def test_a_router_cuts_off_what_it_must(pair, again):
    _, _, router = pair(router=("--drain-timeout", "0.3" if again is None else "60"))
    stream = Stream(router.url, 3500)
    stream.wait_begun()
    router.signal(signal.SIGTERM)
    if again is not None:
        wait_until(lambda: call(router.url + "/readiness")[0] == 503)
        router.signal(again)
    assert router.ended(15) == 1
    stream.wait_end(10)
    assert stream.error() == 503


@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_either_side_of_a_pair_finishes_its_handoffs(pair, side):
    """Long prompts in small chunks: KV is under way when the signal comes."""
    prefill, (decode,), router = pair(serve=("--chunked-prefill-size", 128))
    streams = [Stream(router.url, 50, text=None, input_ids=[5 + i] * 3000) for i in range(4)]
    for instance in (prefill, decode):  # none of them is new work there any more
        wait_until(lambda: metric(instance.url, "sglang:num_requests_total") == 4)
    wait_until(lambda: metric(prefill.url, "baton_transfer_bytes_total") > 0)
    leaving = prefill if side == "prefill" else decode
    leaving.signal(signal.SIGTERM)
    for stream in streams:
        stream.wait_end(120)
        assert stream.status == 200 and stream.tokens() == 50, stream.events[-2:]
    assert leaving.ended() == 0


def test_a_worker_that_drains_is_taken_out_without_a_failed_request(pair):
    _, decodes, router = pair(decodes=2)
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            answers.append(generate(router.url)[:2])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answers) > 20)
    decodes[0].signal(signal.SIGTERM)
    assert decodes[0].ended() == 0
    seen = len(answers)
    wait_until(lambda: len(answers) > seen + 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200}, [answer for answer in answers if answer[0] != 200][:3]


def test_up_drains_its_children(cluster):
    up = cluster("--model-path", MODELS["mla"], "--prefill", "tp=2", "--decode", "tp=2")
    stream = Stream(up.url, 2000)
    stream.wait_begun()
    up.process.send_signal(signal.SIGTERM)
    stream.wait_end(120)
    assert stream.tokens() == 2000
    assert up.process.wait(timeout=30) == 0


def test_a_second_signal_ends_up_at_once(cluster_of_any_end):
    up = cluster_of_any_end("--model-path", MODELS["mla"], "--prefill", "tp=2", "--decode", "tp=2")
    pids = up.pids()
    stream = Stream(up.url, 3500)
    stream.wait_begun()
    up.process.send_signal(signal.SIGTERM)
    wait_until(lambda: call(up.url + "/readiness")[0] == 503)
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(timeout=20) == 1
    stream.wait_end(10)
    assert stream.error() == 503
    for pid in pids.values():
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="a child is left")
