"""`baton chat`: typed in a terminal, and through a pipe."""
import http.server
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import BATON, MODELS, call

TIMING = re.compile(r"\[first token \d+ ms, \S+ [kM]B of KV handed over \(\S+ ms of the wait\); \d+ prompt tokens.*; \d+ tokens, \S+ a second.*\]")


class OpenAiServer:
    """Answers chat completions with the scripts it is given, and keeps what it was asked."""

    def __init__(self):
        self.asked, self.keys, self.scripts, self.left = [], [], [], threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.reply(200, {"data": [{"id": "some-model"}]} if self.path == "/base/v1/models" else {})

            def do_POST(self):
                outer.keys.append(self.headers["Authorization"])
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                script = outer.scripts.pop(0)
                if isinstance(script, int):
                    return self.reply(script, {"error": {"message": "no room, come back"}})
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for event in script:
                        self.wfile.write(event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n")
                        self.wfile.flush()
                except (BrokenPipeError, ConnectionResetError):
                    outer.left.set()

            def reply(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/base/v1"

    def says(self, *texts, end=b"data: [DONE]\n\n"):
        self.scripts.append([*({"choices": [{"delta": {"content": text}}]} for text in texts), end])

    def goes_on_for_ever(self):
        def events():
            yield {"choices": [{"delta": {"content": "begun"}}]}
            while True:
                time.sleep(0.02)
                yield {"choices": [{"delta": {"content": " more"}}]}

        self.scripts.append(events())


@pytest.fixture
def server():
    made = OpenAiServer()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Terminal:
    """The program with a terminal of its own."""

    def __init__(self, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(BATON, [str(BATON), *map(str, arguments)])
        self.seen, self.read_to = "", 0

    def until(self, pattern, seconds=60):
        """What came since the last call up to the end of the pattern's match."""
        end = time.time() + seconds
        while not (found := re.search(pattern, self.seen[self.read_to:])):
            assert time.time() < end, f"{pattern!r} has not come: {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:  # it has ended
                    assert re.search(pattern, self.seen[self.read_to:]), f"{pattern!r} did not come: {self.seen!r}"
        text = self.seen[self.read_to:self.read_to + found.end()]
        self.read_to += found.end()
        return text

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def exit_code(self, seconds=30):
        end = time.time() + seconds
        while (ended := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if select.select([self.fd], [], [], 0.05)[0]:  # so that it never waits for us to read
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    time.sleep(0.05)
            if time.time() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"it does not end: {self.seen!r}")
        os.close(self.fd)
        return os.waitstatus_to_exitcode(ended[1])


def piped(text, *arguments, timeout=120):
    data = text if isinstance(text, bytes) else text.encode()
    made = subprocess.run([BATON, "chat", *map(str, arguments)], input=data, capture_output=True, timeout=timeout)
    return made.returncode, made.stdout.decode(), made.stderr.decode()


def messages(request):
    return [(message["role"], message["content"]) for message in request["messages"]]


def test_a_pipe_gets_the_answers_alone(cluster):
    up = cluster("--model-path", MODELS["mla"], "--prefill", "tp=4", "--decode", "tp=4,dp=2")
    code, answers, notes = piped("What is 23 + 19?\nTell me a story about an otter.\n", "--base-url", up.url, "--temperature", 0, "--max-tokens", 40)
    assert code == 0, notes
    first, story = answers.splitlines()[0], answers.splitlines()[1]
    body = {"messages": [{"role": "user", "content": "What is 23 + 19?"}], "temperature": 0, "max_tokens": 40}
    assert first == json.loads(call(up.url + "/v1/chat/completions", body)[1])["choices"][0]["message"]["content"]
    assert "42" in first and story
    assert len(TIMING.findall(notes)) == 2, notes
    assert "cut off by --max-tokens" in notes.splitlines()[-1]


def test_a_cluster_of_its_own_starts_and_ends_with_it():
    chat = Terminal("chat", "--model-path", MODELS["gqa"], "--prefill", "tp=3", "--decode", "tp=2", "--temperature", "0")
    started = chat.until(r"OpenAI API: http://\S+/v1\s[\s\S]*> ")
    url = re.search(r"OpenAI API: (http://\S+)/v1", started).group(1)
    pids = [int(pid) for pid in re.findall(r"\(pid (\d+)\)", started)]
    assert len(pids) == 3 and call(url + "/v1/models")[0] == 200
    chat.type("What is 23 + 19?\n")
    assert "42" in chat.until(r"a second\]")
    chat.type("\x04")
    assert chat.exit_code() == 0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_child_that_dies_ends_it_and_is_named():
    chat = Terminal("chat", "--model-path", MODELS["gqa"], "--prefill", "tp=1", "--decode", "tp=1")
    started = chat.until(r"OpenAI API[\s\S]*> ")
    os.kill(int(re.search(r"decode-0.*\(pid (\d+)\)", started).group(1)), signal.SIGKILL)
    chat.until(r"decode-0 \(decode TP1\) was killed by signal 9")
    assert chat.exit_code() == 1


def test_the_history_goes_along_until_reset(server):
    for text in ("one", "two", "three", "four"):
        server.says(text)
    typed = "first\nsecond\n/reset\nthird \\\ngoes on\n\n/what\nfourth"
    code, answers, notes = piped(typed, "--base-url", server.url, "--system", "Be brief.", "--api-key", "k", "--seed", 7, "--top-p", "0.5", "--top-p", "0.9")
    assert (code, answers) == (0, "one\ntwo\nthree\nfour\n"), notes
    assert [messages(request) for request in server.asked] == [
        [("system", "Be brief."), ("user", "first")],
        [("system", "Be brief."), ("user", "first"), ("assistant", "one"), ("user", "second")],
        [("system", "Be brief."), ("user", "third \ngoes on")],
        [("system", "Be brief."), ("user", "third \ngoes on"), ("assistant", "three"), ("user", "fourth")],
    ]
    assert server.keys == ["Bearer k"] * 4
    assert {"model": "some-model", "seed": 7, "top_p": 0.9, "max_tokens": 1024, "stream": True}.items() <= server.asked[0].items()
    assert "temperature" not in server.asked[0]  # the server's choice
    assert "/exit" in notes  # what /what got


def test_ctrl_c_stops_an_answer_and_no_more(server):
    chat = Terminal("chat", "--base-url", server.url)
    chat.until("some-model[\\s\\S]*> ")
    chat.type("\x03")
    chat.until("Ctrl-D or /exit leaves[\\s\\S]*> ")
    server.goes_on_for_ever()
    chat.type("say much\n")
    chat.until("begun more more")
    chat.type("\x03")
    chat.until(r"stopped\][\s\S]*> ")
    assert server.left.wait(10), "the server was not told"
    server.says("done")
    chat.type("and now?\n")
    chat.until("done[\\s\\S]*> ")
    kept = messages(server.asked[1])
    assert kept[0] == ("user", "say much") and kept[1][1].startswith("begun more") and kept[2] == ("user", "and now?")
    chat.type("/exit\n")
    assert chat.exit_code() == 0


def test_a_server_cannot_steer_the_terminal(server):
    server.says("a\x1b]0;title\x07b", "\x9b2Jc\rd", "\x00\x7fé\te")
    server.says("\x1b[2J")
    chat = Terminal("chat", "--base-url", server.url)
    chat.until("> ")
    chat.type("x\n")
    shown = chat.until("é\te[\\s\\S]*> ")
    assert "a^[]0;title^Gb\ufffd2Jc^Md^@^?é" in shown and "\x07" not in shown and "\x1b]" not in shown
    assert piped("x\n", "--base-url", server.url)[1] == "\x1b[2J\n"  # no terminal: as it came
    chat.type("\x04")
    assert chat.exit_code() == 0


def test_an_error_is_shown_and_a_script_ends_with_it(server):
    server.scripts.append(503)
    code, answers, notes = piped("x\ny\n", "--base-url", server.url)
    assert (code, answers) == (5, "") and "HTTP 503: no room, come back" in notes
    server.scripts.append(400)
    server.says("cut", end=b"")
    server.scripts.append([{"error": {"message": "transfer failed"}}])
    server.scripts.append([b"data: {nonsense\n\n"])
    server.says("well")
    chat = Terminal("chat", "--base-url", server.url)
    chat.until("> ")
    for said, seen in (("one", "HTTP 400: no room"), ("two", r"cut\s[\s\S]*without \[DONE\]"), ("three", "transfer failed"), ("four", "not JSON"), ("five", "well")):
        chat.type(said + "\n")
        chat.until(seen + r"[\s\S]*> ")
    assert messages(server.asked[-1]) == [("user", "five")]  # what failed was not said
    chat.type("/bye\n")
    assert chat.exit_code() == 0


def test_what_cannot_be_sent_is_refused(server):
    with socket.create_server(("127.0.0.1", 0)) as closed_at_once:
        unused_port = closed_at_once.getsockname()[1]
    code, _, notes = piped(b"caf\xe9\n", "--base-url", server.url)
    assert code == 0 and "not UTF-8" in notes and not server.asked
    code, _, notes = piped("x\n", "--base-url", f"http://127.0.0.1:{unused_port}")
    assert code == 5 and f"127.0.0.1:{unused_port}" in notes
    for arguments in (["--base-url", "https://127.0.0.1"], ["--base-url", server.url, "--model-path", MODELS["mla"]], ["--temperature", "-1"]):
        assert piped("x\n", *arguments)[0] == 2, arguments


def test_a_reader_that_leaves_ends_it(server):
    server.goes_on_for_ever()
    chat = subprocess.Popen([BATON, "chat", "--base-url", server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    chat.stdin.write(b"x\n")
    chat.stdin.flush()
    assert chat.stdout.read(5) == b"begun"
    chat.stdout.close()
    assert chat.wait(timeout=30) == 1
    chat.stdin.close()
    assert server.left.wait(10)
