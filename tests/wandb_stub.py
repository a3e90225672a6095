"""A local stand-in for W&B's server: it answers GraphQL with recorded responses, and keeps what it was asked."""

import json
import re
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Mapping[str, Any] | Callable[[dict[str, Any]], Mapping[str, Any]]
"""The data of a response, or a function of the query's variables that gives them."""


class WandbStub:
    """A server at ``url``. ``asked`` has the operations in their order, with the variables of each.

    Args:
        answers: for the name of a GraphQL operation its response. An operation without one gets a GraphQL error.
    """

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers, self.asked = answers, []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/graphql":  # W&B's own telemetry
                    self._send({})
                    return
                content = json.loads(body)
                self._send(stub.answer(content["query"], content.get("variables") or {}))

            def do_GET(self) -> None:
                self._send({})

            def _send(self, content: Mapping[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, query: str, variables: dict[str, Any]) -> Mapping[str, Any]:
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        self.asked.append((operation, variables))
        known = self.answers.get(operation)
        if known is None:
            return {"errors": [{"message": f"no recorded answer for {operation}"}]}
        return {"data": known(variables) if callable(known) else known}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
