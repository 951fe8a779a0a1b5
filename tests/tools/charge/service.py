"""A third party that charges cards, as far as a test needs one.

service.py FOLDER: listens on a free port of the loopback address and writes its number to FOLDER/port.
POST /charge/USER charges that user: it takes its time, as long as there is a file FOLDER/slow-USER,
and answers with a receipt. GET /receipt/USER answers with the user's last receipt, with nothing when
the user was not charged, and with 409 while a charge is under way. GET /arrived/USER and
GET /charged/USER tell how many charges of the user were asked for, and made.
"""

import collections
import http.server
import os
import sys
import threading
import time

FOLDER = sys.argv[1]
COUNTS = {"arrived": collections.Counter(), "charged": collections.Counter()}
LOCK = threading.Lock()


class Service(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        user = self.path.split("/")[2]
        self.count("arrived", user)
        time.sleep(0.05)
        while os.path.exists(f"{FOLDER}/slow-{user}"):
            time.sleep(0.01)
        self.answer(f"receipt-{user}-{self.count('charged', user)}")

    def do_GET(self):
        _, what, user = self.path.split("/")
        with LOCK:
            arrived, charged = (counts[user] for counts in COUNTS.values())
        if what != "receipt":
            self.answer(str(arrived if what == "arrived" else charged))
        elif arrived > charged:
            self.answer("a charge is under way", 409)
        else:
            self.answer(f"receipt-{user}-{charged}" if charged else "")

    def count(self, what, user):
        with LOCK:
            COUNTS[what][user] += 1
            return COUNTS[what][user]

    def answer(self, text, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


# Thirty requests come at once.
http.server.ThreadingHTTPServer.request_queue_size = 128
SERVER = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
with open(f"{FOLDER}/port.new", "w", encoding="ascii") as file:
    file.write(str(SERVER.server_port))
os.rename(f"{FOLDER}/port.new", f"{FOLDER}/port")
SERVER.serve_forever()
