"""Uses a running agent as its operator and as a stranger would, and checks all that it signs with eth_account.

The agent has the configuration ../testdata/config.toml but for the addresses of its upstream and its node.
"""
import json
import sys

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes

from client import ask, seal, set_variables

OPERATOR = "0x" + "42" * 32
PAYEE = "0x86693CbE3f2581DF512635823F46f0d593D96dbA"


def expect(found, wanted):
    if found != wanted:
        raise SystemExit(f"found {found!r}, wanted {wanted!r}")


def main():
    url = sys.argv[1]
    _, about = ask(url, "/api/v1//config")
    agent = about["tee_public_key"]
    key = bytes.fromhex(about["public_key"][2:])
    items = [
        {"name": "openrouter_api_key", "sealed": seal(key, "openrouter_api_key", "sk-1")},
        {"name": "secret_token", "sealed": seal(key, "secret_token", "tøken")},
        {"name": "motto", "value": "be kind", "immutable": True},
    ]
    status, answer = set_variables(url, OPERATOR, items)
    expect((status, answer.get("result")), (200, "Variables set."))
    expect(set_variables(url, OPERATOR, items)[0], 403)  # the motto is immutable now
    expect(set_variables(url, "0x" + "43" * 32, items[:1])[0], 401)
    expect(ask(url, "/api/v1/variables", {"name": "motto"}, "GET"), (200, "be kind"))

    prompt = {"messages": [{"role": "user", "content": "héllo 😀"}], "system_prompt": "x\ny"}
    status, answer = ask(url, "/api/v1/prompt", prompt)
    expect(status, 200)
    members = ["model", "response", "messages", "tools", "system_prompt"]
    text = json.dumps({name: answer[name] for name in members}, separators=(",", ":"))
    expect(answer["signed_response"], text)
    signer = Account.recover_message(encode_defunct(text=text), signature=answer["signature"])
    expect(signer.lower(), agent)

    payment = {"transaction": {"to": PAYEE, "value": 3, "data": "0x"}, "secret_token": "tøken"}
    status, legacy = ask(url, "/api/v1/sign-transaction", payment)
    expect(status, 200)
    expect(Account.recover_transaction(legacy["signed_transaction"]).lower(), agent)
    payment["transaction"] |= {"value": 10**15 + 1, "max_fee_per_gas": 10**9, "max_priority_fee_per_gas": 7}
    status, market = ask(url, "/api/v1/sign-transaction", payment)
    expect(status, 200)
    expect(Account.recover_transaction(market["signed_transaction"]).lower(), agent)
    fields = TypedTransaction.from_bytes(HexBytes(market["signed_transaction"])).as_dict()
    expect((fields["value"], fields["maxFeePerGas"], fields["maxPriorityFeePerGas"]), (10**15 + 1, 10**9, 7))
    payment["secret_token"] = "other"
    expect(ask(url, "/api/v1/sign-transaction", payment)[0], 401)
    print("eth_account: all as specified")


if __name__ == "__main__":
    main()
