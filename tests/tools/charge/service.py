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
ARRIVED, CHARGED = collections.Counter(), collections.Counter()
RECEIPTS = {}
LOCK = threading.Lock()


class Service(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        user = self.path.rsplit("/", 1)[1]
        with LOCK:
            ARRIVED[user] += 1
        time.sleep(0.05)
        while os.path.exists(os.path.join(FOLDER, "slow-" + user)):
            time.sleep(0.01)
        with LOCK:
            CHARGED[user] += 1
            receipt = RECEIPTS[user] = f"receipt-{user}-{CHARGED[user]}"
        self.answer(receipt)

    def do_GET(self):
        what, user = self.path.split("/")[1:]
        with LOCK:
            if what != "receipt":
                self.answer(str({"arrived": ARRIVED, "charged": CHARGED}[what][user]))
            elif ARRIVED[user] > CHARGED[user]:
                self.answer("a charge is under way", 409)
            else:
                self.answer(RECEIPTS.get(user, ""))

    def answer(self, text, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    # Thirty requests come at once.
    request_queue_size = 128


SERVER = Server(("127.0.0.1", 0), Service)
with open(os.path.join(FOLDER, "port.new"), "w", encoding="ascii") as file:
    file.write(str(SERVER.server_port))
os.rename(os.path.join(FOLDER, "port.new"), os.path.join(FOLDER, "port"))
SERVER.serve_forever()
