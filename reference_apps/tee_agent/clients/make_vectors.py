"""Writes what eth_account and python-ecdsa make of fixed inputs into ../testdata/clients.json."""
import hashlib
import importlib.metadata
import json
import pathlib

import ecdsa
from cryptography.hazmat.primitives.asymmetric import ec
from eth_account import Account

from client import seal, sign_message, update_message

OPERATOR = "0x" + "42" * 32
AGENT = "0x" + "09" * 32
PAYEE = "0x86693CbE3f2581DF512635823F46f0d593D96dbA"
MESSAGES = ["", "Some data", "{\"model\":\"\\u00e9\"}", "é 漢 😀", "x" * 1000, "line\r\nline"]
TRANSACTIONS = [
    {"chainId": 84532, "nonce": 128, "gasPrice": 1000395, "gas": 21000, "to": PAYEE, "value": 3, "data": "0x"},
    {"chainId": 1, "nonce": 0, "gasPrice": 0, "gas": 0, "to": PAYEE, "value": 0, "data": "0x00"},
    {"chainId": 2**63 - 1, "nonce": 2**63, "gasPrice": 2**100, "gas": 30000000, "to": PAYEE,
     "value": 2**255 + 1, "data": "0x" + "ab" * 300},
    {"chainId": 84532, "nonce": 7, "maxFeePerGas": 2000000000, "maxPriorityFeePerGas": 1000000, "gas": 60000,
     "to": PAYEE, "value": 10**18, "data": "0x"},
    {"chainId": 11155111, "nonce": 0, "maxFeePerGas": 0, "maxPriorityFeePerGas": 0, "gas": 0, "to": PAYEE,
     "value": 0, "data": "0x" + "00" * 56},
]
ITEMS = [
    {"name": "api_key", "value": "sk;é\n", "public": False, "immutable": True},
    {"name": "motto", "value": "", "public": True, "immutable": False},
]


def legacy_signature(tee_name, name, value):
    """As the first deployments' operator script makes it."""
    digest = hashlib.sha256(f"{tee_name};update_variables;{name};{value}".encode()).digest()
    key = ecdsa.SigningKey.from_string(bytes.fromhex(OPERATOR[2:]), curve=ecdsa.SECP256k1)
    return key.sign_deterministic(digest).hex()


def texts(transaction):
    """Numbers as decimal strings: some are more than a JSON reader keeps exact."""
    return {name: str(value) if isinstance(value, int) else value for name, value in transaction.items()}


def main():
    operator, agent = Account.from_key(OPERATOR), Account.from_key(AGENT)
    public = ecdsa.SigningKey.from_string(bytes.fromhex(OPERATOR[2:]), curve=ecdsa.SECP256k1).verifying_key
    message = update_message("robot_sensory_forest", agent.address.lower(), 3, ITEMS)
    recipient = b"\x04" + ecdsa.SigningKey.from_string(bytes.fromhex(AGENT[2:]), curve=ecdsa.SECP256k1).verifying_key.to_string()
    ephemeral = ec.derive_private_key(int("55" * 32, 16), ec.SECP256K1())
    made = [Account.sign_transaction(transaction, AGENT) for transaction in TRANSACTIONS]
    vectors = {
        "made_with": {name: importlib.metadata.version(name) for name in ("eth-account", "ecdsa", "cryptography")},
        "operator": {"private_key": OPERATOR, "address": operator.address, "public_key": public.to_string().hex()},
        "agent": {"private_key": AGENT, "address": agent.address},
        "messages": [{"message": text, "signature": sign_message(AGENT, text)} for text in MESSAGES],
        "transactions": [
            {"transaction": texts(transaction), "raw": "0x" + bytes(signed.raw_transaction).hex(),
             "hash": "0x" + bytes(signed.hash).hex()}
            for transaction, signed in zip(TRANSACTIONS, made)
        ],
        "update": {"tee_name": "robot_sensory_forest", "number": 3, "items": ITEMS, "message": message,
                   "signature": sign_message(OPERATOR, message)},
        "sealed": {"name": "api_key", "value": "sk;é", "sealed": seal(recipient, "api_key", "sk;é", ephemeral)},
        "legacy": {"api_key": {"value": "sk;1",
                               "signature": legacy_signature("robot_sensory_forest", "api_key", "sk;1")}},
    }
    path = pathlib.Path(__file__).parent.parent / "testdata" / "clients.json"
    path.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
