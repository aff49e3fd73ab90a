"""DER as a tree that can be changed: [tag, bytes] or [tag, [children]]. For what no tool agrees to make."""


def parse(data):
    nodes = []
    while data:
        tag, length, used = data[0], data[1], 2
        if length & 0x80:
            used = 2 + (length & 0x7F)
            length = int.from_bytes(data[2:used], "big")
        body, data = data[used:used + length], data[used + length:]
        assert len(body) == length, "truncated"
        nodes.append([tag, parse(body) if tag & 0x20 else body])
    return nodes


def encode(node):
    tag, content = node
    body = b"".join(map(encode, content)) if isinstance(content, list) else content
    return bytes([tag]) + encode_length(len(body)) + body


def encode_length(n):
    if n < 0x80:
        return bytes([n])
    digits = n.to_bytes((n.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(digits)]) + digits


def oid(text):
    arcs = [int(a) for a in text.split(".")]
    out = b""
    for arc in [arcs[0] * 40 + arcs[1]] + arcs[2:]:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | arc & 0x7F)
        out += bytes(reversed(digits))
    return [0x06, out]


def extension(name, value, critical=False):
    """value: a node, or bytes for something that is not DER."""
    body = value if isinstance(value, bytes) else encode(value)
    return [0x30, [oid(name)] + ([[0x01, b"\xff"]] if critical else []) + [[0x04, body]]]
