//! `pf-proxy check`: what the rules say of one connection, for people.

use std::{
    io::{self, Write},
    net::IpAddr,
    path::Path,
};

use egress::{Destination, Name, Pattern, Protocol, Rule, RuleError, Verdict, class::special};

use crate::{cli::ExitCode, forward_host::RuleArgs, host::Guard};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --manifest, --image, --allow and --deny: by the glasshouse.toml of this folder; if there is none, what a \
                        host allows by default."
)]
pub(crate) struct CheckArgs {
    /// What would be reached, as in api.example.com:443, 192.0.2.1:80 or [2001:db8::1]:443
    #[arg(value_name = "NAME:PORT", value_parser = parse_target)]
    target: Target,

    /// By UDP, not TCP
    #[arg(long)]
    udp: bool,

    /// Suppose that the name resolves to this address. Repeatable
    #[arg(long, value_name = "ADDRESS")]
    resolves_to: Vec<IpAddr>,

    #[command(flatten)]
    rules: RuleArgs,
}

#[derive(Clone, Debug)]
struct Target {
    destination: Destination,
    port: u16,
    protocol: Protocol,
}

/// What is asked about by who names no rules, if it is there.
const HERE: &str = "glasshouse.toml";

/// What can be reached has the text of a rule about one name or address and one port.
fn parse_target(text: &str) -> Result<Target, String> {
    let rule: Rule = text.parse().map_err(|error| match error {
        RuleError::NoPort => "no port: as in api.example.com:443".to_owned(),
        other => other.to_string(),
    })?;
    let destination = match rule.pattern() {
        Pattern::Name(name) => Destination::Name(name.clone()),
        Pattern::Network(network) if *network == egress::Network::of(network.address()) => {
            Destination::Address(network.address())
        }
        _ => return Err("name one host".to_owned()),
    };
    match (rule.ports().first(), rule.ports().last()) {
        (port, last) if port == last => Ok(Target { destination, port, protocol: rule.protocol() }),
        _ => Err("name one port".to_owned()),
    }
}

/// Runs the command.
pub(crate) fn run(mut args: CheckArgs) -> ExitCode {
    let is_of_here = args.rules.is_empty() && Path::new(HERE).is_file();
    if is_of_here {
        args.rules.manifest = Some(HERE.into());
    }
    let guard = match args.rules.guard() {
        Ok(guard) => guard,
        Err(error) => {
            tracing::error!(%error, "no rules to check against");
            return ExitCode::CannotGoOn;
        }
    };
    let (mut text, allowed) = explain(&args, &guard);
    if is_of_here {
        text.push_str("  by the glasshouse.toml of this folder\n");
    }
    // A closed pipe is a normal end.
    let _ = io::stdout().write_all(text.as_bytes());
    if allowed { ExitCode::Done } else { ExitCode::Denied }
}

fn explain(args: &CheckArgs, guard: &Guard) -> (String, bool) {
    let Target { destination, port, protocol } = &args.target;
    let protocol = if args.udp { Protocol::Udp } else { *protocol };
    let mut text = String::new();
    let mut say = |destination: &Destination, verdict: &Verdict| {
        text.push_str(&format!("{protocol} {destination} port {port}: {verdict}\n"));
        if let Some((address, special)) = destination.address().and_then(|a| Some((a, special(a)?))) {
            text.push_str(&format!("  {address} is {} ({})\n", special.class, special.range));
        }
    };
    let first = guard.evaluate(destination, *port, protocol);
    say(destination, &first);
    let mut allowed = first.is_allowed();
    if let Destination::Name(name) = destination {
        for resolved in resolved(name, &args.resolves_to) {
            let verdict = guard.evaluate(&resolved, *port, protocol);
            say(&resolved, &verdict);
            allowed &= verdict.is_allowed();
        }
    }
    if args.rules.is_empty() {
        text.push_str("  by what a host allows without rules: every address that is not special\n");
    }
    (text, allowed)
}

fn resolved<'a>(name: &'a Name, addresses: &'a [IpAddr]) -> impl Iterator<Item = Destination> + 'a {
    addresses.iter().map(|address| Destination::Resolved(name.clone(), *address))
}
