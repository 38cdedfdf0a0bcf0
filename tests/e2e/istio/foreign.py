"""An HBONE client that shares no code with the agent: Python's h2 over OpenSSL.

ADDRESS PORT CERTIFICATE KEY as arguments; on standard input one request a line, "METHOD AUTHORITY" ("-" for none). All go
over one connection. Answers with one line each: STATUS, whether that was all of the stream ("end" or "open"), the header
`baggage` or "-". A stream that is open gets "hello" and must send it back. "reset CODE" is a stream that was reset.
"""

import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events

PATIENCE = 15
WORD = b"hello"


def connect(address, port, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The names of this world are SPIFFE ids, of which Python knows nothing; who is there is not what is tested.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(socket.create_connection((address, port), PATIENCE))


class Client:
    def __init__(self, stream):
        self.stream = stream
        # What is sent is wrong on purpose.
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.http2 = h2.connection.H2Connection(config)
        self.http2.initiate_connection()
        self.flush()

    def flush(self):
        self.stream.sendall(self.http2.data_to_send())

    def events(self, stream_id):
        """What happens to one stream, as it comes."""
        while True:
            data = self.stream.recv(65536)
            if not data:
                raise EOFError("the connection ended")
            events = self.http2.receive_data(data)
            self.flush()
            for event in events:
                if isinstance(event, h2.events.ConnectionTerminated):
                    raise EOFError("the connection was ended")
                if getattr(event, "stream_id", None) == stream_id:
                    yield event

    def request(self, method, authority):
        stream_id = self.http2.get_next_available_stream_id()
        headers = [(":method", method)]
        if authority != "-":
            headers.append((":authority", authority))
        if method != "CONNECT":
            headers += [(":scheme", "https"), (":path", "/")]
        self.http2.send_headers(stream_id, headers, end_stream=method != "CONNECT")
        self.flush()
        events, answer, came = self.events(stream_id), None, b""
        for event in events:
            if isinstance(event, h2.events.StreamReset):
                return answer or f"reset {event.error_code}"
            if isinstance(event, h2.events.ResponseReceived):
                head = dict(event.headers)
                ended = "end" if event.stream_ended else "open"
                answer = f"{head[':status']} {ended} {head.get('baggage', '-')}"
                if event.stream_ended:
                    return answer
                self.http2.send_data(stream_id, WORD)
                self.flush()
            if isinstance(event, h2.events.DataReceived) and event.data:
                came += event.data
                if came == WORD:
                    self.http2.end_stream(stream_id)
                    self.flush()
                elif not WORD.startswith(came):
                    return f"{answer}, but then {came!r}"
            if isinstance(event, h2.events.StreamEnded):
                return answer if came == WORD else f"{answer}, and only {came!r}"
        return answer


def main():
    address, port, certificate, key = sys.argv[1:]
    client = Client(connect(address, int(port), certificate, key))
    for line in sys.stdin:
        method, authority = line.split()
        try:
            print(client.request(method, authority), flush=True)
        except (EOFError, OSError) as error:
            print(f"broken: {error}", flush=True)


main()
