//! The reference agent as its operator, its users and its auditors see it, with a model and a node that are scripted.
//!
//! Everything runs in a network namespace of the test's own. Needs root for it, and says so without.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{fs, process::Output};

use bed::{Bed, finish, text, utf8};
use serde_json::{Value, json};
use tee_agent::eth::{Fee, Signature, Transaction, message_digest, recover};

/// The operator's key is in the repository: it is an example's.
const OPERATOR: &str = "4242424242424242424242424242424242424242424242424242424242424242";
const NONCE: &str = "00112233445566778899aabbccddeeff";

/// As the one beside the agent, with servers that the test has, and one that the way out does not lead to.
const CONFIG: &str = r#"
tee_name = "robot_sensory_forest"
operator = "24653eac434488002cc06bbfb7f10fe18991e35f9fe4302dbea6d2353dc0ab1c119fc5009a032aa9fe47f5e149bb8442f71f884ccb516590686d8ff6ab91c613"
[[variable]]
name = "openrouter_api_key"
[[variable]]
name = "motto"
public = true
[log]
file = "/var/lib/tee_agent/log"
[upstream]
url = "http://model.test/chat"
model = "scripted"
key = "openrouter_api_key"
[transactions]
open = true
[[transactions.chain]]
id = 84532
rpc = ["http://node.test:8545", "http://evil.test:8545"]
max_gas_price = "2000000000"
per_transaction = "10000000000000000"
total = "20000000000000000"
[[transactions.chain.destination]]
address = "0x86693CbE3f2581DF512635823F46f0d593D96dbA"
[[transactions.chain.token]]
address = "0x1c23A3912247f104D707dfEf41F4B7842B241d4B"
per_transaction = "5000000000000"
total = "100000000000000"
to = ["any"]
"#;

/// A model at 192.0.2.10:80 and a node at 192.0.2.10:8545, which write down what they are asked.
const SERVERS: &str = r#"
import http.server, json, threading
CALL = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{\"location\": \"Paris\"}"}}
RESULTS = {"eth_chainId": "0x14a34", "eth_gasPrice": "0xf43cb", "eth_getTransactionCount": "0x80",
           "eth_sendRawTransaction": "0x" + 64 * "0"}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("asked", "a") as asked:
            asked.write(json.dumps({"token": self.headers["Authorization"], "question": question}) + "\n")
        if "method" in question:
            answer = {"jsonrpc": "2.0", "id": question["id"], "result": RESULTS[question["method"]]}
        else:
            answer = {"choices": [{"message": {"content": "à Paris?", "tool_calls": [CALL]}}]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
for port in (80, 8545):
    threading.Thread(target=http.server.ThreadingHTTPServer(("192.0.2.10", port), Handler).serve_forever).start()
open("ready", "w").close()
"#;

/// Starts the agent, and then says what the documentation of the first agents of this kind has one type.
const SCRIPT: &str = r#"
ip link set lo up
ip addr add 192.0.2.10/32 dev lo
printf '127.0.0.1 localhost\n192.0.2.10 model.test node.test evil.test\n' >hosts
mount --bind hosts /etc/hosts
python3 servers.py &
for _ in $(seq 300); do [ -e ready ] && break; sleep 0.1; done
"$@"
agent=http://127.0.0.1:7047
tee_agent verify $agent --reference agent.eif.json --root root.pem >verified
tee_agent set $agent --reference agent.eif.json --root root.pem --key operator.key --immutable motto="be kind"
tee_agent set $agent --reference agent.eif.json --root root.pem --key operator.key openrouter_api_key=sk-1
if tee_agent set $agent --reference other.json --root root.pem --key operator.key openrouter_api_key=sk-2; then exit 9; fi
ask() { curl -sS --max-time 60 "${@:2}" >"$1"; }
ask plain http://127.0.0.1:7047/api/v1/config
ask config "http://127.0.0.1:7047/api/v1/config?nonce=$NONCE"
ask variables --request GET --location 'http://127.0.0.1:7047/api/v1//variables' --data '{}'
ask refused --location 'http://127.0.0.1:7047/api/v1//variables' \
--header 'Content-Type: application/json' \
--data '{
    "variables": [ {
    "name": "anthropic_api_key" ,
    "value": "sk-proj-f-xxxxxx",
    "signature": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
}]
}
'
ask prompt --location 'http://127.0.0.1:7047/api/v1/prompt' \
--header 'Content-Type: application/json' \
--data '{
    "system_prompt": "You are a helpful AI assistant focused on technical writing and documentation.",
    "messages": [
        {
            "role": "user",
            "content": "give me the weather in paris"
        }
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Get the current weather",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "location": {
                            "type": "string"
                        },
                        "unit": {
                            "type": "string",
                            "enum": [
                                "celsius",
                                "fahrenheit"
                            ]
                        }
                    },
                    "required": [
                        "location"
                    ]
                }
            }
        }
    ]
}'
ask payment http://127.0.0.1:7047/api/v1/sign-transaction --data '{
   "transaction": {
       "to": "0x86693CbE3f2581DF512635823F46f0d593D96dbA",
       "value": 3,
       "data": "0x"
   },
   "rpc_url": "http://node.test:8545"
}'
ask transfer http://127.0.0.1:7047/api/v1/sign-transaction --data '{
   "transaction": {
       "to": "0x1c23A3912247f104D707dfEf41F4B7842B241d4B",
       "value": 0,
       "data": "0xa9059cbb00000000000000000000000000693cbe3f2581df512635823f46f0d593d96dba0000000000000000000000000000000000000000000000000000048c27395000",
       "gas": 60000
   },
   "rpc_url": "http://node.test:8545"
}'
ask evil http://127.0.0.1:7047/api/v1/sign-transaction --data '{
   "transaction": { "to": "0x86693CbE3f2581DF512635823F46f0d593D96dbA", "value": 3 },
   "rpc_url": "http://evil.test:8545"
}'
# Killed, and started again by its enclave, with another key and the same log.
ask before http://127.0.0.1:7047/api/v1/config
tee_agent verify $agent --reference agent.eif.json --root root.pem --log >log.before
echo 'kill -9 $(cat /pid)' >/dev/tcp/127.0.0.1/8080
for _ in $(seq 600); do
    curl -sS --max-time 60 http://127.0.0.1:7047/api/v1/config >after && ! cmp -s before after && break
    sleep 0.1
done
tee_agent verify $agent --reference agent.eif.json --root root.pem --log >log.after
"$1" logs agent
"$1" stop agent
"#;

#[expect(clippy::print_stdout, reason = "the line tells who runs the tests what was not tested")]
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: the reference agent on a network (not root)");
    }
    root
}

/// Builds the agent's image, runs it beside the servers, and uses it.
fn use_agent(bed: &Bed) -> Output {
    let env = serde_json::to_string(CONFIG).unwrap();
    // A shell on a port kills the agent from inside.
    let shell = "busybox nc -ll -p 8080 -e /bin/sh & echo $$ >/pid; exec /tee_agent";
    let manifest = format!(
        "name = \"agent\"\nimage.rootfs = \"rootfs\"\nresources.memory_mib = 256\n\
         publish = [{{ port = 7047 }}, {{ port = 8080 }}]\n[monitor]\nroots = [\"/tee_agent\"]\n\
         [app]\ncommand = [\"/bin/sh\", \"-c\", \"{shell}\"]\nready = \"tcp:7047\"\nrestart = \"on-failure\"\nenv = {{ TEE_AGENT_CONFIG = {env} }}\n\
         [egress]\nallow = [\"model.test:80\", \"node.test:8545\"]\n"
    );
    let dir = bed.manifest("agent", &manifest);
    fs::copy(bed.bin().join("tee_agent"), dir.join("rootfs/tee_agent")).unwrap();
    let image = bed.path("agent.eif");
    bed.ok(&["build", utf8(&dir), "-o", utf8(&image)]);
    fs::copy(bed.root(), bed.path("root.pem")).unwrap();
    fs::write(bed.path("operator.key"), OPERATOR).unwrap();
    fs::write(bed.path("servers.py"), SERVERS).unwrap();
    let reference = fs::read_to_string(bed.path("agent.eif.json")).unwrap();
    let mut other: Value = serde_json::from_str(&reference).unwrap();
    other["pcrs"]["0"] = "01".repeat(48).into();
    fs::write(bed.path("other.json"), other.to_string()).unwrap();

    let mut args = bed.run_args(&image);
    args.extend([
        "--detach",
        "--name",
        "agent",
        "--publish",
        "127.0.0.1:7047:7047",
        "--publish",
        "127.0.0.1:8080:8080",
    ]);
    let mut command = bed.beside(SCRIPT, &args);
    command
        .env("NONCE", NONCE)
        .env("PATH", format!("{}:{}", utf8(bed.bin()), std::env::var("PATH").unwrap()));
    finish(&mut command)
}

fn an_operator_an_auditor_and_users_get_what_they_came_for(bed: &Bed) {
    if !is_root() {
        return;
    }
    let output = use_agent(bed);
    assert!(output.status.success(), "{}", text(&output));
    let saved = |name: &str| fs::read_to_string(bed.path(name)).unwrap();
    let answer = |name: &str| serde_json::from_str::<Value>(&saved(name)).unwrap();

    // The auditor: the document is about the image that was built, and about the key that the agent signs with.
    let about = answer("config");
    let agent = about["tee_public_key"].as_str().unwrap();
    assert!(
        saved("verified").to_lowercase().contains(&format!("address {agent}\n")),
        "{}",
        saved("verified")
    );
    assert_eq!(answer("plain")["tee_public_key"], agent);
    fs::write(bed.path("document"), about["code_attestation"].as_str().unwrap()).unwrap();
    let verdict = bed.run(&[
        "verify",
        "--document",
        utf8(&bed.path("document")),
        "--nonce",
        NONCE,
        "--image",
        utf8(&bed.path("agent.eif")),
        "--root",
        utf8(&bed.path("root.pem")),
    ]);
    assert!(verdict.status.success(), "{}", text(&verdict));

    // The operator: set what was sealed, twice, and was stopped before telling another image.
    assert!(text(&output).contains("REFUSED"), "{}", text(&output));
    assert_eq!(about["operator_number"], 2);
    assert_eq!(
        answer("variables"),
        json!({"motto": {"value": "be kind", "public": true, "immutable": true}})
    );
    assert_eq!(answer("refused"), "Signature verification failed.");

    // The users.
    let prompt = answer("prompt");
    let signed = prompt["signed_response"].as_str().unwrap();
    let signature = hex::decode(&prompt["signature"].as_str().unwrap()[2..]).unwrap().try_into().unwrap();
    let signer = recover(&message_digest(signed.as_bytes()), &signature).unwrap();
    assert_eq!(signer.to_string(), agent);
    assert_eq!(serde_json::from_str::<Value>(signed).unwrap()["response"], prompt["response"]);
    assert_eq!(prompt["response"]["content"], "à Paris?");
    assert_eq!(prompt["response"]["tool_calls"][0]["function"]["name"], "get_weather");
    let payment = Transaction {
        chain_id: 84532,
        nonce: 128,
        fee: Fee::Legacy { gas_price: 1_000_395.into() },
        gas: 21_000,
        to: Some("0x86693CbE3f2581DF512635823F46f0d593D96dbA".parse().unwrap()),
        value: 3.into(),
        data: Vec::new(),
    };
    assert_eq!(sender(&payment, &answer("payment")), agent);
    assert_eq!(answer("transfer")["transaction_hash"].as_str().unwrap().len(), 66);

    // The log: six entries, then one of the next start, which took it over; and the ledger remembers.
    let first = "log of 6 entries, 1 starts, of which 0 ended without a last entry\nthe ledger remembers it up to entry";
    assert!(saved("log.before").contains(first), "{}", saved("log.before"));
    let then = "log of 7 entries, 2 starts, of which 1 ended without a last entry\nthe ledger remembers it up to entry";
    assert!(saved("log.after").contains(then), "{}", saved("log.after"));
    assert_ne!(answer("after")["tee_public_key"], agent);

    // The way out leads where the measured manifest says, and not where it does not.
    let asked: Vec<Value> = saved("asked").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(asked[0]["token"], "Bearer sk-1");
    assert_eq!(asked[0]["question"]["messages"][1]["content"], "give me the weather in paris");
    let sent: Vec<_> =
        asked.iter().filter(|asked| asked["question"]["method"] == "eth_sendRawTransaction").collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0]["question"]["params"][0], answer("payment")["signed_transaction"]);
    assert!(
        answer("evil")["error"].as_str().unwrap().starts_with("the node: no answer"),
        "{}",
        saved("evil")
    );
    assert!(text(&output).contains("tcp evil.test:0: denied"), "{}", text(&output));
}

/// Whose signature a transaction carries, if it is the one that was asked for.
fn sender(transaction: &Transaction, answer: &Value) -> String {
    let raw = hex::decode(&answer["signed_transaction"].as_str().unwrap()[2..]).unwrap();
    // A list of 56 to 255 bytes, whose items are all short.
    assert_eq!((raw[0], usize::from(raw[1])), (0xf8, raw.len() - 2));
    let mut items = Vec::new();
    let mut rest = &raw[2..];
    while let [first, after @ ..] = rest {
        let (item, next) =
            if *first < 0x80 { rest.split_at(1) } else { after.split_at(usize::from(*first) - 0x80) };
        items.push(item);
        rest = next;
    }
    // Numbers have no leading zeros there.
    let number = |item: &[u8]| -> [u8; 32] { [&vec![0; 32 - item.len()], item].concat().try_into().unwrap() };
    let (r, s) = (number(items[7]), number(items[8]));
    for y_is_odd in [false, true] {
        let signature = Signature { r, s, y_is_odd };
        if transaction.with_signature(&signature).raw == raw {
            return recover(&transaction.signing_digest(), &signature.to_bytes()).unwrap().to_string();
        }
    }
    panic!("not the transaction that was asked for: {answer}")
}

#[test]
fn an_operator_an_auditor_and_users_get_what_they_came_for_on_local() {
    if let Some(bed) = Bed::local() {
        an_operator_an_auditor_and_users_get_what_they_came_for(&bed);
    }
}

#[test]
fn an_operator_an_auditor_and_users_get_what_they_came_for_on_qemu() {
    if let Some(bed) = Bed::qemu() {
        an_operator_an_auditor_and_users_get_what_they_came_for(&bed);
    }
}
