"""A client of tee_agent: sets operator variables, from the README's description alone.

    client.py URL --key FILE NAME=VALUE...     FILE holds the operator's private key in hex; values are sealed
"""
import argparse
import base64
import hashlib
import json
import pathlib
import urllib.error
import urllib.request

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_account import Account
from eth_account.messages import encode_defunct


def update_message(tee_name, agent, number, items):
    """The text that an operator signs, from the README alone."""
    lines = ["tee_agent operator variables v2", f"agent {tee_name}", f"key {agent}", f"number {number}"]
    for item in items:
        visibility = "public" if item.get("public") else "hidden"
        mutability = "immutable" if item.get("immutable") else "mutable"
        form = "sealed" if "sealed" in item else "value"
        signed = base64.b64decode(item["sealed"]) if "sealed" in item else item["value"].encode()
        digest = hashlib.sha256(signed).hexdigest()
        lines.append(f"set {item['name']} {visibility} {mutability} {form} {digest}")
    return "\n".join(lines)


def seal(recipient, name, value, ephemeral=None):
    """Seals a value for the agent with this public key (65 bytes)."""
    ephemeral = ephemeral or ec.generate_private_key(ec.SECP256K1())
    shared = ephemeral.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), recipient))
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    info = b"tee_agent sealed v1" + point + recipient
    key = HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(shared)
    return base64.b64encode(point + AESGCM(key).encrypt(bytes(12), value.encode(), name.encode())).decode()


def sign_message(key, text):
    return "0x" + bytes(Account.sign_message(encode_defunct(text=text), key).signature).hex()


def ask(url, path, body=None, method=None):
    """Status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, method=method or ("POST" if data else "GET"))
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def set_variables(url, key, items):
    """Signs and sends an update; items have name, value or sealed, public, immutable."""
    _, about = ask(url, "/api/v1/config")
    number = about["operator_number"] + 1
    message = update_message(about["tee_name"], about["tee_public_key"], number, items)
    update = {"variables": items, "number": number, "signature": sign_message(key, message)}
    return ask(url, "/api/v1/variables", update)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("url", metavar="URL")
    arguments.add_argument("--key", metavar="FILE", required=True)
    arguments.add_argument("variables", metavar="NAME=VALUE", nargs="+")
    arguments = arguments.parse_args()
    # Whose key that is, the attestation says. Verify it before you trust it with a secret: docs/guide/agents.md.
    _, about = ask(arguments.url, "/api/v1/config")
    recipient = bytes.fromhex(about["public_key"][2:])
    items = []
    for variable in arguments.variables:
        name, _, value = variable.partition("=")
        items.append({"name": name, "sealed": seal(recipient, name, value)})
    key = pathlib.Path(arguments.key).read_text().strip()
    status, answer = set_variables(arguments.url, key, items)
    print(json.dumps(answer))
    raise SystemExit(0 if status == 200 else 1)


if __name__ == "__main__":
    main()
