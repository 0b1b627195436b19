"""A verifier of ledger proofs written from docs/spec/ledger.md and RFC 9381 alone, with nothing but Python's library.

Usage: stranger.py FOLDER      (the folder of vectors; says what it checked, ends with 1 if a vector is judged otherwise)
       stranger.py FILE        (proofs with verdicts of another verifier, one JSON object a line; the same)
"""
import base64, hashlib, json, pathlib, sys


class Refused(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Refused(why)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def number(value):
    return value.to_bytes(8, "big")


# Deterministic CBOR (RFC 8949, section 4.2.1).

def head(data, at):
    need(at < len(data), "Decode")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info < 24:
        return major, info, at
    need(info < 28, "Decode")
    size = 1 << (info - 24)
    need(at + size <= len(data), "Decode")
    value = int.from_bytes(data[at:at + size], "big")
    need(value >= (24, 1 << 8, 1 << 16, 1 << 32)[info - 24], "Decode")
    return major, value, at + size


def item(data, at, depth=0):
    need(depth < 8, "Decode")
    if data[at:at + 1] == b"\xf6":
        return None, at + 1
    major, value, at = head(data, at)
    if major == 0:
        return value, at
    if major == 1:
        return -1 - value, at
    if major in (2, 3):
        need(at + value <= len(data), "Decode")
        raw = data[at:at + value]
        try:
            return (raw if major == 2 else raw.decode()), at + value
        except UnicodeDecodeError:
            raise Refused("Decode")
    need(major in (4, 5) and value <= len(data) - at, "Decode")
    if major == 4:
        items = []
        for _ in range(value):
            one, at = item(data, at, depth + 1)
            items.append(one)
        return items, at
    entries, last = {}, -1
    for _ in range(value):
        key, at = item(data, at, depth + 1)
        need(type(key) is int and key > last, "Decode")
        last = key
        entries[key], at = item(data, at, depth + 1)
    return entries, at


def decode(data, limit):
    need(len(data) <= limit, "Decode")
    value, at = item(data, 0)
    need(at == len(data), "Decode")
    return value


def array(value, members):
    need(type(value) is list and len(value) == members, "Decode")
    return value


def uint(value, limit=1 << 64):
    need(type(value) is int and 0 <= value < limit, "Decode")
    return value


def octets(value, least, most):
    need(type(value) is bytes and least <= len(value) <= most, "Decode")
    return value


def hashes(value, most):
    octets(value, 0, 32 * most)
    need(len(value) % 32 == 0, "Decode")
    return [value[at:at + 32] for at in range(0, len(value), 32)]


# Edwards25519 (RFC 8032) and ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381).

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
IDENTITY = (0, 1, 1, 0)


def add(a, b):
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, i, j, f = f - e, h - g, h + g, e + f
    return e * i % P, j * f % P, i * j % P, e * f % P


def multiply(scalar, point):
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def negative(a):
    return -a[0] % P, a[1], a[2], -a[3] % P


def encode_point(a):
    inverse = pow(a[2], P - 2, P)
    x, y = a[0] * inverse % P, a[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decode_point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = decode_point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def vrf_output(key, path, proof):
    public, gamma = decode_point(key), decode_point(proof[:32])
    challenge, s = int.from_bytes(proof[32:48], "little"), int.from_bytes(proof[48:], "little")
    need(public is not None and gamma is not None and s < Q, "Vrf")
    need(encode_point(multiply(8, public)) != encode_point(IDENTITY), "Vrf")
    for counter in range(256):
        hashed = decode_point(hashlib.sha512(b"\x03\x01" + key + path + bytes([counter, 0])).digest()[:32])
        if hashed is not None:
            hashed = multiply(8, hashed)
            break
    u = add(multiply(s, BASE), negative(multiply(challenge, public)))
    v = add(multiply(s, hashed), negative(multiply(challenge, gamma)))
    points = b"".join(encode_point(point) for point in (public, hashed, gamma, u, v))
    need(hashlib.sha512(b"\x03\x02" + points + b"\0").digest()[:16] == proof[32:48], "Vrf")
    return hashlib.sha512(b"\x03\x03" + encode_point(multiply(8, gamma)) + b"\0").digest()


# The log (RFC 9162, sections 2.1.3.2 and 2.1.4.2).

def node(left, right):
    return sha256(b"\1", left, right)


def inclusion(leaf, index, size, root, path):
    need(index < size, "Log")
    first, last, result = index, size - 1, leaf
    for sibling in path:
        need(last > 0, "Log")
        if first & 1 or first == last:
            result = node(sibling, result)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            result = node(result, sibling)
        first, last = first >> 1, last >> 1
    need(last == 0 and result == root, "Log")


def consistency(old, old_root, new, new_root, path):
    need(old <= new, "Log")
    if old == 0 or old == new:
        need(not path and (old != 0 or old_root == sha256()) and (old != new or old_root == new_root), "Log")
        return
    path = ([old_root] if old & old - 1 == 0 else []) + path
    need(path, "Log")
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    one = other = path[0]
    for sibling in path[1:]:
        need(last > 0, "Log")
        if first & 1 or first == last:
            one, other = node(sibling, one), node(sibling, other)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            other = node(other, sibling)
        first, last = first >> 1, last >> 1
    need(last == 0 and (one, other) == (old_root, new_root), "Log")


# Entries and payloads.

def entry(data):
    version, kind, time, subject, sequence, previous, commitment = array(decode(data, 128), 7)
    need(version == 1 and type(version) is int and kind in (1, 2, 3), "Decode")
    need((uint(sequence) == 0) == (previous is None), "Decode")
    if previous is not None:
        uint(previous)
    return kind, uint(time), octets(subject, 32, 32), sequence, previous, octets(commitment, 32, 32)


NAMES = {1: "scan", 2: "event", 3: "access", 4: "sweep", 5: "overflow", 6: "restart"}
TYPES = {1: "file", 2: "directory", 3: "symlink", 4: "character-device", 5: "block-device", 6: "fifo", 7: "socket", 8: "unreadable"}
DIGESTS = {1: ("blake3", 32), 2: ("sha256", 32), 3: ("sha3-512", 64)}
REASONS = {1: "restart", 2: "overflow", 3: "mount", 4: "failure"}


def record(data):
    value = decode(data, 4608)
    need(type(value) is list and len(value) in (3, 8) and value[0] == 1, "Decode")
    need(uint(value[1]) in NAMES and uint(value[2]) <= 8, "Decode")
    if len(value) == 3:
        need(value[2] == 0, "Decode")
        return {"cause": NAMES[value[1]], "type": "removed"}
    _, cause, kind, mode, uid, gid, mtime, content = value
    need(kind in TYPES and type(mtime) is int and -(1 << 63) <= mtime < 1 << 63, "Decode")
    result = {"cause": NAMES[cause], "type": TYPES[kind], "mode": uint(mode, 4096), "uid": uint(uid, 1 << 32)}
    result.update(gid=uint(gid, 1 << 32), mtime=str(mtime))
    if kind in (1, 2):
        count, digests = array(content, 2)
        need(type(digests) is dict and (digests or kind == 2), "Decode")
        result["size" if kind == 1 else "entries"] = str(uint(count))
        result["digests"] = {}
        for algorithm, digest in digests.items():
            need(algorithm in DIGESTS, "Decode")
            name, size = DIGESTS[algorithm]
            result["digests"][name] = octets(digest, size, size).hex()
    elif kind == 3:
        result["target"] = octets(array(content, 1)[0], 1, 4096).hex()
    elif kind in (4, 5):
        major, minor = array(content, 2)
        result.update(major=uint(major, 1 << 32), minor=uint(minor, 1 << 32))
    elif kind in (6, 7):
        array(content, 0)
    else:
        result["size"] = str(uint(array(content, 1)[0]))
    return result


def gap(data):
    version, reason, since, detail = array(decode(data, 512), 4)
    need(version == 1 and uint(reason) in REASONS and type(detail) is str and len(detail.encode()) <= 256, "Decode")
    return {"reason": REASONS[reason], "since": str(uint(since)), "detail": detail}


# Proofs: the numbers are those of the specification.

KINDS = {"file": 1, "history": 2, "stream": 3}


def verify(anchor, kind, subject, data):
    key_of_vrf, size, log_root, map_root = anchor
    # 1.
    version, found, at, vrf, siblings, end, chain = array(decode(data, 1 << 25), 7)
    need(version == 1 and found in (1, 2, 3) and type(chain) is list and len(chain) <= 65536, "Decode")
    need((vrf is None) == (found == 3), "Decode")
    siblings = hashes(siblings, 256)
    need(found == KINDS[kind], "Kind")
    need(uint(at) == size, "Size")
    # 2.
    if found == 3:
        key = sha256(b"glasshouse/ledger/stream/1\0", subject.encode())
    else:
        key = vrf_output(key_of_vrf, bytes.fromhex(subject), octets(vrf, 80, 80))[:32]
    # 3.
    value = in_map(key, siblings, end, map_root)
    if value is None:
        need(not chain, "Count")
        return {"file": "never", "history": [], "stream": {"count": 0, "entries": []}}[kind]
    # 4.
    count, index, leaf = value
    need({1: len(chain) == 1, 2: len(chain) == count, 3: len(chain) <= count}[found], "Count")
    results, sequence = [], count - 1
    for opened in chain:
        data, path, nonce, payload = array(opened, 4)
        one, of, time, about, position, previous, commitment = (octets(data, 0, 128), *entry(data))
        need(results or sha256(b"\0", one) == leaf, "Entry")
        need(about == key and position == sequence and sequence >= 0, "Entry")
        need(previous is None or previous < index, "Entry")
        octets(nonce, 32, 32), octets(payload, 0, 65536)
        need(commitment == sha256(b"glasshouse/ledger/payload/1\0", nonce, payload), "Entry")
        inclusion(sha256(b"\0", one), index, size, log_root, hashes(path, 65))
        # 5.
        result = {"index": index, "sequence": sequence, "time": str(time)}
        if found == 3:
            need(of in (2, 3), "Entry")
            result["payload"] = payload.hex() if of == 2 else gap(payload)
        else:
            need(of == 1, "Entry")
            result["record"] = record(payload)
        results.append(result)
        index, sequence = previous, sequence - 1
    results.reverse()
    return {"file": results[-1] if results else None, "history": results, "stream": {"count": count, "entries": results}}[kind]


def in_map(key, siblings, end, root):
    value, depth = None, len(siblings)
    bit = lambda of, at: of[at // 8] >> 7 - at % 8 & 1
    if end is None:
        result = bytes(32)
    else:
        need(type(end) is list and len(end) in (3, 4), "Decode")
        count, last, leaf = uint(end[-3]), uint(end[-2]), octets(end[-1], 32, 32)
        there = key if len(end) == 3 else octets(end[0], 32, 32)
        if len(end) == 4:
            need(there != key and all(bit(there, at) == bit(key, at) for at in range(depth)), "Map")
        else:
            value = count, last, leaf
        result = sha256(b"glasshouse/ledger/map-leaf/1\0", there, number(count), number(last), leaf)
    for at, sibling in zip(range(depth - 1, -1, -1), siblings):
        pair = (sibling, result) if bit(key, at) else (result, sibling)
        result = sha256(b"glasshouse/ledger/map-node/1\0", *pair)
    need(result == root, "Map")
    return value


def map_root(keys, depth=0):
    if not keys:
        return bytes(32)
    if len(keys) == 1:
        key, count, last, leaf = keys[0]
        return sha256(b"glasshouse/ledger/map-leaf/1\0", key, number(count), number(last), leaf)
    half = lambda bit: [one for one in keys if one[0][depth // 8] >> 7 - depth % 8 & 1 == bit]
    return sha256(b"glasshouse/ledger/map-node/1\0", map_root(half(0), depth + 1), map_root(half(1), depth + 1))


def log_root(entries):
    if not entries:
        return sha256()
    if len(entries) == 1:
        return sha256(b"\0", entries[0])
    split = 1 << (len(entries) - 1).bit_length() - 1
    return node(log_root(entries[:split]), log_root(entries[split:]))


def judged(call, *arguments):
    try:
        return call(*arguments), None
    except Refused as refusal:
        return None, str(refusal)


def main(folder):
    read = lambda name: json.loads((folder / name).read_text())
    wrong, checked = [], 0

    def check(name, right):
        nonlocal checked
        checked += 1
        if not right:
            wrong.append(name)

    vectors, unhex = read("proofs.json"), bytes.fromhex
    anchor = (unhex(vectors["vrf_key"]), vectors["size"], unhex(vectors["log_root"]), unhex(vectors["map_root"]))
    for one in vectors["valid"]:
        check(one["name"], judged(verify, anchor, one["kind"], one["subject"], unhex(one["proof"])) == (one["result"], None))
    for one in vectors["refused"]:
        found = judged(verify, anchor, one["kind"], one["subject"], unhex(one["proof"]))
        check(one["name"], found == (None, one["refusal"]))
    for one in vectors["consistency"]:
        path = [unhex(hash) for hash in one["hashes"]]
        found = judged(consistency, one["from"], unhex(one["from_root"]), one["to"], unhex(one["to_root"]), path)
        check("consistency", (found[1] is None) == one["holds"])

    readers = {"record": record, "gap": gap, "entry": entry, "baseline": lambda data: array(decode(data, 256), 6)}
    vectors = read("encodings.json")
    for one in vectors["valid"]:
        found, refusal = judged(readers[one["format"]], unhex(one["encoding"]))
        check(one["name"], refusal is None and (one["format"] not in ("record", "gap") or found == one["value"]))
    for one in vectors["refused"]:
        # What a version means is checked where one is read.
        if one["format"] != "baseline":
            check(one["name"], judged(readers[one["format"]], unhex(one["encoding"]))[1] is not None)

    vectors = read("hashing.json")
    for one in vectors["streams"]:
        check("stream", sha256(b"glasshouse/ledger/stream/1\0", one["name"].encode()).hex() == one["key"])
    for one in vectors["commitments"]:
        made = sha256(b"glasshouse/ledger/payload/1\0", unhex(one["nonce"]), unhex(one["payload"]))
        check("commitment", made.hex() == one["commitment"])
    for one in vectors["logs"]:
        check("log", log_root([unhex(entry) for entry in one["entries"]]).hex() == one["root"])
    for one in vectors["maps"]:
        keys = [(unhex(key["key"]), key["count"], key["last"], unhex(key["leaf"])) for key in one["keys"]]
        check("map", map_root(keys).hex() == one["root"])
    one = vectors["origin"]
    made = sha256(b"glasshouse/ledger/origin/1\0", unhex(one["ledger_key"]), unhex(one["vrf_key"])).hex()
    check("origin", one["origin"] == "glasshouse/" + made)

    for one in read("checkpoints.json")["valid"]:
        origin, size, log, extension = one["note"].split("\n")[:4]
        check("note", size == one["size"] and base64.b64decode(log).hex() == one["log_root"]
              and base64.b64decode(extension.removeprefix("map ")).hex() == one["map_root"])
    print(f"{checked} vectors, {len(wrong)} judged otherwise: {wrong}")
    return bool(wrong) or not checked


def compare(file):
    cases = [json.loads(line) for line in file.read_text().splitlines()]
    unhex, wrong = bytes.fromhex, []
    for one in cases:
        anchor = (unhex(one["vrf_key"]), one["size"], unhex(one["log_root"]), unhex(one["map_root"]))
        found, refusal = judged(verify, anchor, one["kind"], one["subject"], unhex(one["proof"]))
        if (refusal is None) != one["accepted"]:
            wrong.append((one["name"], refusal or "accepted"))
    print(f"{len(cases)} proofs, {len(wrong)} judged otherwise: {wrong[:40]}")
    return bool(wrong) or not cases


if __name__ == "__main__":
    path = pathlib.Path(sys.argv[1])
    sys.exit(main(path) if path.is_dir() else compare(path))
