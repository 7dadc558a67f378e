"""Who is told: an HTTP server and a mail server that keep what they are sent."""

import base64
import email
import email.policy
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Inbox:
    """`posts` holds (path, body) of every HTTP request, `mails` every mail. Use it as a context manager."""

    def __init__(self):
        self.posts, self.mails, self.logins = [], [], []
        self.refuse = set()  # paths that answer 500
        inbox = self

        class Posts(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                refused = self.path in inbox.refuse
                if not refused:
                    inbox.posts.append((self.path, json.loads(body)))
                self.send_response(500 if refused else 202 if self.path == "/pagerduty" else 200)
                self.end_headers()
                self.wfile.write(b'{"status":"success"}' if self.path == "/pagerduty" else b"ok")

            def log_message(self, *_):
                pass

        class Mails(socketserver.StreamRequestHandler):
            def handle(self):
                self.say("220 inbox")
                while line := self.rfile.readline().decode().strip():
                    verb, _, rest = line.partition(" ")
                    if not self.answer(verb.upper(), rest):
                        return

            def answer(self, verb, rest):
                if verb == "EHLO":
                    self.say("250-inbox")
                    self.say("250 AUTH PLAIN")
                elif verb == "AUTH":
                    inbox.logins.append(base64.b64decode(rest.split()[-1]).decode().strip("\0").split("\0"))
                    self.say("235 welcome")
                elif verb == "DATA":
                    self.say("354 go on")
                    lines = iter(self.rfile.readline, b".\r\n")
                    inbox.mails.append(email.message_from_bytes(b"".join(lines), policy=email.policy.default))
                    self.say("250 kept")
                elif verb == "QUIT":
                    self.say("221 bye")
                    return False
                else:
                    self.say("250 fine")
                return True

            def say(self, line):
                self.wfile.write(f"{line}\r\n".encode())

        class MailServer(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), Posts), MailServer(("127.0.0.1", 0), Mails)]
        http, mail = (f"127.0.0.1:{server.server_address[1]}" for server in self.servers)
        self.url, self.mail_address = f"http://{http}", mail

    def __enter__(self):
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def told(self, receiver, *words):
        """Messages to a receiver (slack, pagerduty, email, deadman), as text, that hold all these words."""
        if receiver == "email":
            texts = [f"{mail['Subject']}\n{mail.get_body(('plain',)).get_content()}" for mail in list(self.mails)]
        else:
            texts = [json.dumps(body) for path, body in list(self.posts) if path == f"/{receiver}"]
        return [text for text in texts if all(word in text for word in words)]
