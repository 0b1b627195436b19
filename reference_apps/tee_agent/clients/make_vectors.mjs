// Adds what ethers makes of the same inputs to ../testdata/clients.json; run make_vectors.py before.
import { readFileSync, writeFileSync } from "node:fs";
import { Interface, Transaction, Wallet, version } from "ethers";
import { seal, updateMessage } from "./client.mjs";

const path = new URL("../testdata/clients.json", import.meta.url);
const vectors = JSON.parse(readFileSync(path, "utf8"));
const agent = new Wallet(vectors.agent.private_key);
const operator = new Wallet(vectors.operator.private_key);

async function signed({ transaction }) {
  const { chainId, nonce, gas, gasPrice, maxFeePerGas, maxPriorityFeePerGas, to, value, data } = transaction;
  if (BigInt(nonce) > BigInt(Number.MAX_SAFE_INTEGER)) return null;
  const fee = gasPrice === undefined
    ? { type: 2, maxFeePerGas: BigInt(maxFeePerGas), maxPriorityFeePerGas: BigInt(maxPriorityFeePerGas) }
    : { type: 0, gasPrice: BigInt(gasPrice) };
  const made = Transaction.from({ chainId: BigInt(chainId), nonce: Number(nonce), gasLimit: BigInt(gas), to,
    value: BigInt(value), data, ...fee });
  made.signature = agent.signingKey.sign(made.unsignedHash);
  return { raw: made.serialized, hash: made.hash };
}

const erc20 = new Interface(["function transfer(address to, uint256 amount) returns (bool)"]);
const { update } = vectors;
const message = updateMessage(update.tee_name, agent.address.toLowerCase(), update.number, update.items);
vectors.made_with.ethers = version;
vectors.ethers = {
  addresses: [agent.address, operator.address],
  messages: await Promise.all(vectors.messages.map(({ message }) => agent.signMessage(message))),
  transactions: await Promise.all(vectors.transactions.map(signed)),
  update: { message, signature: await operator.signMessage(message) },
  sealed: {
    name: vectors.sealed.name,
    value: vectors.sealed.value,
    sealed: seal(Buffer.from(agent.signingKey.publicKey.slice(2), "hex"), vectors.sealed.name, vectors.sealed.value,
      Buffer.alloc(32, 0x55)),
  },
  transfer: erc20.encodeFunctionData("transfer", [operator.address, 2n ** 256n - 1n]),
};
writeFileSync(path, `${JSON.stringify(vectors, null, 1)}\n`);
