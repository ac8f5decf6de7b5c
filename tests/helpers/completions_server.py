"""A completions server of one model, in a thread, with a fault and a form of reply that are set by name."""

import http.client
import json
import socketserver
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from ropewalk.models.model import load_model


class CompletionsServer:
    """Continues prompts greedily with `factors`.

    Args:
        fault: one of the faults below, or none.
        form: of its log-probabilities: `texts` (SGLang), `pieces` (llama-cpp-python: with the space before
            a word), `ids` (vLLM), `content` (llama-server), or `marks`, which no tokenizer has.
        context: the most tokens of a prompt and its completion.
    """

    def __init__(self, name, factors, fault="", form="texts", context=256):
        # A model of its own, because its threads install factors during a comparison.
        self.loaded = load_model(name)
        self.factors, self.fault, self.form, self.context = factors, fault, form, context
        self.lock, self.counting, self.num_running = threading.Lock(), threading.Lock(), 0
        self.keys, self.queries, self.asked = set(), set(), []

    def complete(self, asked):
        """Returns the HTTP status and the body."""
        tokenizer, prompt = self.loaded.tokenizer, asked["prompt"]
        if isinstance(prompt, str):
            prompt = tokenizer(prompt).input_ids
            if self.fault == "leaves out the BOS":
                prompt = prompt[1:]
        elif self.fault in ("takes only text", "leaves out the BOS"):
            return 422, {"error": {"message": "prompt must be a string"}}
        if self.fault == "puts a BOS first":
            prompt = [tokenizer.bos_token_id, *prompt]
        if self.fault == "cuts prompts":
            prompt = prompt[-32:]
        if len(prompt) + asked["max_tokens"] > self.context:
            return 400, {
                "error": {"message": f"This model's maximum context length is {self.context} tokens."}
            }
        steps = self.continue_prompt(list(prompt), asked["max_tokens"], asked["logprobs"])
        choice = {
            "index": 0, "finish_reason": "length", "text": tokenizer.decode([chosen for chosen, _ in steps]),
            "logprobs": None if self.fault == "sends no log-probabilities" else self.shown(steps),
        }  # fmt: skip
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(steps)}
        return 200, {
            "id": "1",
            "object": "text_completion",
            "created": 0,
            "choices": [choice],
            "usage": usage,
        }

    def continue_prompt(self, ids, num_tokens, num_likeliest):
        """Each chosen token, with the likeliest tokens and their log-probabilities."""
        steps = []
        for place in range(num_tokens):
            is_off = (self.fault == "depends on other requests" and self.num_running > 1) or (
                self.fault == "goes wrong after its first token" and place > 0
            )
            factors = self.factors.replace(attention_factor=1.0) if is_off else self.factors
            with self.lock, self.loaded.using(factors), torch.no_grad():
                logits = self.loaded.model(torch.tensor([ids])).logits[0, -1]
            found = logits.double().log_softmax(-1).topk(num_likeliest)
            likeliest = list(zip(found.indices.tolist(), found.values.tolist(), strict=True))
            if self.fault == "sends NaN":
                likeliest = [(number, float("nan")) for number, _ in likeliest]
            chosen = likeliest[0][0]
            if self.num_running > 1 and place == 2:
                if self.fault == "chooses another token in parallel":
                    chosen = likeliest[1][0]
                if self.fault == "ends early in parallel":
                    break
            steps.append((chosen, likeliest))
            ids.append(chosen)
        return steps

    def name(self, number):
        """Its name of a token."""
        decode = self.loaded.tokenizer.decode
        if self.form == "pieces":
            before = self.loaded.tokenizer("a", add_special_tokens=False).input_ids[-1]
            return decode([before, number])[1:]
        return {"texts": decode([number]), "ids": f"token_id:{number}", "marks": f"§{number}"}[self.form]

    def shown(self, steps):
        if self.form == "content":
            return {
                "content": [
                    {
                        "id": chosen, "token": "?", "logprob": likeliest[0][1],
                        "top_logprobs": [{"id": n, "token": "?", "logprob": value} for n, value in likeliest],
                    }
                    for chosen, likeliest in steps
                ]
            }  # fmt: skip
        return {
            "tokens": [self.name(chosen) for chosen, _ in steps],
            "token_logprobs": [likeliest[0][1] for _, likeliest in steps],
            "top_logprobs": [
                {self.name(number): value for number, value in likeliest} for _, likeliest in steps
            ],
        }

    @contextmanager
    def running(self):
        """Yields its URL."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def reply(self, code, content):
                body = json.dumps(content).encode() if not isinstance(content, str) else content.encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def is_authorised(self):
                outer.queries.add(self.path.partition("?")[2])
                outer.keys.add(self.headers["Authorization"])
                if outer.fault != "wants a key":
                    return True
                self.reply(401, {"error": {"message": f"no such key: {self.headers['Authorization']}"}})
                return False

            def do_GET(self):
                if self.is_authorised():
                    self.reply(200, {"object": "list", "data": [{"id": "tiny"}]})

            def do_POST(self):
                outer.keys.add(self.headers["Authorization"])
                outer.queries.add(self.path.partition("?")[2])
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(asked)
                if outer.fault == "sleeps":
                    time.sleep(1)
                if outer.fault == "sends HTML":
                    self.reply(200, "<html>welcome</html>")
                    return
                with outer.counting:
                    outer.num_running += 1
                if "other requests" in outer.fault or "in parallel" in outer.fault:
                    time.sleep(0.3)
                reply = outer.complete(asked)
                with outer.counting:
                    outer.num_running -= 1  # before the client's next request
                self.reply(*reply)

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *arguments):
                """Prints nothing if the client closes the connection."""

        with Quiet(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


def http_reply(body, *headers, status="200 OK"):
    """The bytes of a whole reply."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


MODELS = http_reply(b'{"object": "list", "data": [{"id": "tiny"}]}')


@contextmanager
def raw_server(*pieces, pause=0.0, repeat=False, lists_models=False):
    """A server that replies to every request with these bytes.

    Args:
        lists_models: whether it replies rightly to a request for its models.
        pause: seconds before each piece.
        repeat: whether it repeats the last piece without end.
    """
    is_over = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            asked = self.rfile.readline()
            headers = http.client.parse_headers(self.rfile)
            self.rfile.read(int(headers.get("Content-Length", 0)))  # unread bytes would reset the connection
            sent = iter((MODELS,) if lists_models and asked.startswith(b"GET") else pieces)
            piece = b""
            while not is_over.wait(pause):
                piece = next(sent, piece if repeat else None)
                if piece is None:
                    return
                try:
                    self.request.sendall(piece)
                except OSError:
                    return

    class Quiet(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            is_over.set()
            server.shutdown()
            thread.join()
