//! From the measured manifest to what has to be started: the framework's daemons, then the services.

use std::{cmp::Reverse, ffi::OsString, path::Path, time::Duration};

use egress::EGRESS_PORT;
use manifest::{
    ClientAddress, DEFAULT_STOP_TIMEOUT_S, Measured, Protocol, Publish, Readiness, Restart, Service,
    StopSignal,
};
use sys::pid1::Launch;

use crate::{
    boot::{MANIFEST_PATH, NSM_PATH},
    health::Monitor,
    ledger::{LEDGER_SOCKET_PATH, STATE_DIRECTORY},
    mounts::{ROOTFS, RUNTIME_DIRECTORY},
    notify,
    place::Place,
    private::CONTROL_HEAD_PATH,
    secrets,
    supervisor::UnitSpec,
    users::{AccountError, AccountsError, Users},
};

/// How long a daemon of the framework has to become ready.
const DAEMON_READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The mark of the framework's daemons in events. No service's name can have it.
const DAEMON_MARK: char = '@';

/// The applet that watches files.
const MONITOR: &str = "fs-monitor";

/// The variable that container engines set where the image does not.
const HOME: &str = "HOME";

/// How long the first look at all files may take.
const SCAN_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Whether a unit is the one that watches files.
pub(crate) fn is_monitor(name: &str) -> bool {
    name.strip_prefix(DAEMON_MARK) == Some(MONITOR)
}

/// Whether a unit's name is that of a daemon of the framework.
pub(crate) fn is_daemon(name: &str) -> bool {
    name.starts_with(DAEMON_MARK)
}

/// A unit with all that it takes to start it.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) spec: UnitSpec,
    pub(crate) launch: Launch,
    pub(crate) ready: Readiness,
    pub(crate) stop_signal: StopSignal,
    pub(crate) monitor: Option<Monitor>,
}

/// Why a service of the manifest cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("service {service}: user {user:?}")]
    User {
        service: String,
        user: String,
        #[source]
        source: AccountError,
    },
    #[error(transparent)]
    Accounts(#[from] AccountsError),
}

/// Everything to start, in order, the main service last.
pub(crate) fn plan(measured: &Measured, place: &Place) -> Result<Vec<Unit>, PlanError> {
    let users = Users::read(Path::new(ROOTFS))?;
    let mut units = daemons(measured, place);
    for service in &measured.services {
        units.push(self::service(service, &users)?);
    }
    Ok(units)
}

/// The framework's own daemons; every one says by itself that it is ready.
fn daemons(measured: &Measured, place: &Place) -> Vec<Unit> {
    let mut daemons = Vec::new();
    // Before all others: whatever they do to files is recorded.
    if measured.monitor.is_some() {
        let words = [
            "run",
            "--manifest",
            MANIFEST_PATH,
            "--base",
            ROOTFS,
            "--state",
            STATE_DIRECTORY,
            "--socket",
            LEDGER_SOCKET_PATH,
        ];
        let mut monitor = daemon(MONITOR, words.map(String::from).to_vec());
        monitor.spec.ready_timeout = Some(SCAN_TIMEOUT);
        daemons.push(monitor);
    }
    // Before the attestation server, so that there is a chain when the attestation server states its head.
    if let Some(control) = &measured.control {
        let listen = place.guest(control.port.get().into()).to_string();
        let mut words = vec!["listen", "--listen", &listen, "--nsm", NSM_PATH, "--manifest", MANIFEST_PATH];
        words.extend(["--rootfs", ROOTFS]);
        if measured.monitor.is_some() {
            words.extend(["--ledger", LEDGER_SOCKET_PATH]);
        }
        daemons.push(daemon("pipeline", words.into_iter().map(String::from).collect()));
    }
    if let Some(attestation) = &measured.attestation {
        let listen = place.guest(attestation.port.get().into()).to_string();
        let api = format!("unix:{RUNTIME_DIRECTORY}/api.sock");
        let mut words =
            vec!["--listen", &listen, "--api", &api, "--nsm", NSM_PATH, "--manifest", MANIFEST_PATH];
        let plain = attestation.plain.map(|port| place.guest(port.get().into()).to_string());
        if let Some(plain) = &plain {
            words.extend(["--plain", plain]);
        }
        if attestation.client_ca.is_some() {
            words.push("--measured-clients");
        }
        if measured.control.is_some() {
            words.extend(["--control-head", CONTROL_HEAD_PATH]);
        }
        if measured.monitor.is_some() {
            words.extend(["--ledger", LEDGER_SOCKET_PATH]);
        }
        if let Some(acme) = &measured.acme {
            words.extend(["--acme-directory", &acme.directory]);
            words.extend(acme.domains.iter().flat_map(|domain| ["--acme-domain", domain]));
            words.extend(acme.contact.iter().flat_map(|contact| ["--acme-contact", contact]));
        }
        daemons.push(daemon("ra-web-srv", words.into_iter().map(String::from).collect()));
    }
    if measured.egress.is_some() {
        let host = place.host(EGRESS_PORT.into()).to_string();
        let mut words = vec!["transparent", "--manifest", MANIFEST_PATH, "--host", &host];
        if measured.monitor.is_some() {
            words.extend(["--ledger", LEDGER_SOCKET_PATH]);
        }
        let mut way_out = daemon("pf-proxy", words.into_iter().map(String::from).collect());
        way_out.spec.name = format!("{DAEMON_MARK}egress");
        daemons.push(way_out);
    }
    if !measured.publish.is_empty() {
        daemons.push(daemon("pf-proxy", ways_in(&measured.publish, place)));
    }
    daemons
}

/// What the proxy of published ports is told.
fn ways_in(publish: &[Publish], place: &Place) -> Vec<String> {
    let mut words = vec!["reverse".to_owned()];
    let (mut naming_clients, mut limits) = (Vec::new(), Vec::new());
    // The proxy takes the first name that fits, so what says more comes first.
    let mut named = Vec::new();
    for entry in publish {
        let listen = place.guest(Publish::vsock_port(entry.port, entry.protocol)).to_string();
        if entry.protocol == Protocol::Udp {
            words.extend(["--datagrams".to_owned(), format!("{listen}=udp://127.0.0.1:{}", entry.target)]);
            continue;
        }
        let route = format!("{listen}=tcp://127.0.0.1:{}", entry.target);
        match &entry.sni {
            None => words.extend(["--route".to_owned(), route]),
            Some(name) => {
                named.push((name.starts_with("*."), Reverse(name.len()), format!("{name}={route}")))
            }
        }
        if let Some(way) = entry.client_address {
            let option = match way {
                ClientAddress::ProxyProtocol => "--pass-proxy",
                ClientAddress::Source => "--client-source",
            };
            naming_clients.push([option.to_owned(), listen.clone()]);
        }
        if let Some(limit) = entry.max_per_source {
            limits.push(["--max-per-source".to_owned(), format!("{listen}={limit}")]);
        }
    }
    named.sort();
    words.extend(named.into_iter().flat_map(|(_, _, text)| ["--server-name".to_owned(), text]));
    // Once for all entries of a port.
    naming_clients.dedup();
    limits.dedup();
    words.extend(naming_clients.into_iter().chain(limits).flatten());
    words
}

/// A daemon is another applet of this very program.
fn daemon(name: &str, words: Vec<String>) -> Unit {
    let spec = UnitSpec {
        name: format!("{DAEMON_MARK}{name}"),
        restart: Restart::Always,
        ready_timeout: Some(DAEMON_READY_TIMEOUT),
        stop_timeout: Duration::from_secs(DEFAULT_STOP_TIMEOUT_S.into()),
        secrets: Vec::new(),
    };
    let args = std::iter::once(name.to_owned()).chain(words).map(OsString::from).collect();
    let launch =
        Launch { program: "/proc/self/exe".into(), args, env: vec![notify_variable()], confinement: None };
    Unit { spec, launch, ready: Readiness::Notify, stop_signal: StopSignal::TERM, monitor: None }
}

fn service(service: &Service, users: &Users) -> Result<Unit, PlanError> {
    let confinement = users.confine(&service.user, ROOTFS, &service.workdir).map_err(|source| {
        PlanError::User { service: service.name.clone(), user: service.user.clone(), source }
    })?;
    let mut words = service.command.iter().map(OsString::from);
    let program = words.next().expect("a measured service has a command");
    let mut env: Vec<_> = service.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    if !service.env.contains_key(HOME) {
        env.push((HOME.into(), users.home(confinement.uid).into()));
    }
    env.push(notify_variable());
    if !service.secrets.is_empty() {
        env.push(secrets::variable(&service.name));
    }
    let timeout = Duration::from_secs(service.ready_timeout_s.into());
    let spec = UnitSpec {
        name: service.name.clone(),
        restart: service.restart,
        ready_timeout: (service.ready != Readiness::Started).then_some(timeout),
        stop_timeout: Duration::from_secs(service.stop_timeout_s.into()),
        secrets: service.secrets.clone(),
    };
    let launch = Launch { program, args: words.collect(), env, confinement: Some(confinement) };
    Ok(Unit {
        spec,
        launch,
        ready: service.ready,
        stop_signal: service.stop_signal,
        monitor: Monitor::of(service),
    })
}

fn notify_variable() -> (OsString, OsString) {
    ("NOTIFY_SOCKET".into(), notify::SOCKET_PATH.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifest::Attestation;
    use std::{
        collections::BTreeMap,
        num::{NonZeroU16, NonZeroU32},
    };

    fn measured() -> Measured {
        let port = |port| NonZeroU16::new(port).unwrap();
        Measured {
            acme: None,
            attestation: Some(Attestation { client_ca: None, plain: None, port: port(8443) }),
            control: None,
            egress: None,
            monitor: None,
            name: "demo".into(),
            publish: vec![port(80).into(), port(8080).into()],
            services: Vec::new(),
            version: 1,
        }
    }

    #[test]
    fn daemons_come_first_and_listen_where_the_host_reaches_them() {
        let words = |place: &Place| -> Vec<_> {
            let text = |unit: &Unit| {
                unit.launch.args.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
            };
            daemons(&measured(), place).iter().map(text).collect()
        };
        assert_eq!(
            words(&Place::Machine),
            [
                "ra-web-srv --listen vsock://any:8443 --api unix:/run/glasshouse/api.sock --nsm /dev/nsm \
                 --manifest /glasshouse/manifest.json",
                "pf-proxy reverse --route vsock://any:80=tcp://127.0.0.1:80 \
                 --route vsock://any:8080=tcp://127.0.0.1:8080",
            ]
        );
        let local = words(&Place::Local("/d".into()));
        assert!(local[0].starts_with("ra-web-srv --listen unix:/d/guest_8443 "), "{local:?}");
    }

    #[test]
    fn published_ports_are_what_the_manifest_says_of_them() {
        let port = |port: u16| NonZeroU16::new(port).unwrap();
        let named = |name: &str, target| Publish {
            sni: Some(name.into()),
            target: port(target),
            client_address: Some(ClientAddress::ProxyProtocol),
            max_per_source: NonZeroU32::new(50),
            ..Publish::plain(port(443))
        };
        let publish = [
            Publish { client_address: Some(ClientAddress::Source), ..Publish::plain(port(80)) },
            Publish { sni: None, ..named("", 443) },
            named("*.example.org", 1),
            named("a.b.example.org", 2),
            named("*.b.example.org", 3),
            Publish { protocol: Protocol::Udp, target: port(4433), ..Publish::plain(port(443)) },
        ];
        assert_eq!(
            ways_in(&publish, &Place::Machine).join(" "),
            "reverse --route vsock://any:80=tcp://127.0.0.1:80 --route vsock://any:443=tcp://127.0.0.1:443 \
             --datagrams vsock://any:65979=udp://127.0.0.1:4433 --server-name a.b.example.org=vsock://any:443=tcp://127.0.0.1:2 \
             --server-name *.b.example.org=vsock://any:443=tcp://127.0.0.1:3 \
             --server-name *.example.org=vsock://any:443=tcp://127.0.0.1:1 \
             --client-source vsock://any:80 --pass-proxy vsock://any:443 --max-per-source vsock://any:443=50"
        );
    }

    #[test]
    fn a_way_out_is_there_if_the_manifest_has_one() {
        let way_out = manifest::Egress {
            allow: vec!["api.example.com:443".parse().unwrap()],
            deny: Vec::new(),
            dns: manifest::Dns::Host,
            private: Vec::new(),
        };
        let measured = Measured { egress: Some(way_out), publish: Vec::new(), ..measured() };
        let daemons = daemons(&measured, &Place::Machine);
        assert_eq!(daemons.len(), 2);
        let way_out = &daemons[1];
        assert_eq!(way_out.spec.name, "@egress");
        let words: Vec<_> = way_out.launch.args.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "pf-proxy transparent --manifest /glasshouse/manifest.json --host vsock://3:9200"
        );
    }

    #[test]
    fn the_control_channel_is_there_if_the_manifest_names_operators() {
        let operator = manifest::Operator {
            key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
                .parse()
                .unwrap(),
            may: vec![manifest::Capability::Exec],
            name: "alice".into(),
        };
        let control = manifest::Control { operators: vec![operator], port: 9002.try_into().unwrap() };
        let mut measured = Measured { control: Some(control), publish: Vec::new(), ..measured() };
        let words = |unit: &Unit| {
            unit.launch.args.iter().map(|w| w.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        let daemons = self::daemons(&measured, &Place::Machine);
        assert_eq!(
            words(&daemons[0]),
            "pipeline listen --listen vsock://any:9002 --nsm /dev/nsm --manifest /glasshouse/manifest.json --rootfs /rootfs"
        );
        assert!(words(&daemons[1]).ends_with("--control-head /run/glasshouse-private/control/head"));
        measured.monitor = Some(monitor());
        assert!(
            words(&self::daemons(&measured, &Place::Machine)[1])
                .ends_with("--rootfs /rootfs --ledger /run/glasshouse-private/ledger.sock")
        );
    }

    #[test]
    fn the_attestation_server_listens_where_and_to_whom_the_manifest_says() {
        let port = |port| NonZeroU16::new(port).unwrap();
        let client_ca = Some("-----BEGIN CERTIFICATE-----\n".to_owned());
        let attestation = Some(Attestation { client_ca, plain: Some(port(8080)), port: port(8443) });
        let measured = Measured { attestation, publish: Vec::new(), ..measured() };
        let args = &daemons(&measured, &Place::Machine)[0].launch.args;
        let words = args.iter().map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ");
        assert!(words.contains("--listen vsock://any:8443"), "{words}");
        assert!(words.ends_with("--plain vsock://any:8080 --measured-clients"), "{words}");
    }

    fn monitor() -> manifest::Monitor {
        manifest::Monitor {
            deny: Vec::new(),
            digests: Vec::new(),
            enforce: manifest::Enforce::Off,
            ignore: Vec::new(),
            nats: None,
            roots: Vec::new(),
            sweep_s: 0,
        }
    }

    #[test]
    fn the_monitor_is_there_before_all_others_and_they_know_its_ledger() {
        let measured = Measured { monitor: Some(monitor()), publish: Vec::new(), ..measured() };
        let daemons = daemons(&measured, &Place::Machine);
        let words = |unit: &Unit| {
            unit.launch.args.iter().map(|w| w.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert!(is_monitor(&daemons[0].spec.name) && !is_monitor(&daemons[1].spec.name));
        assert_eq!(
            words(&daemons[0]),
            "fs-monitor run --manifest /glasshouse/manifest.json --base /rootfs --state /run/glasshouse-private/ledger \
             --socket /run/glasshouse-private/ledger.sock"
        );
        assert!(words(&daemons[1]).ends_with("--ledger /run/glasshouse-private/ledger.sock"));
    }

    #[test]
    fn no_daemon_runs_that_nobody_asked_for() {
        let quiet = Measured { attestation: None, publish: Vec::new(), ..measured() };
        assert!(daemons(&quiet, &Place::Machine).is_empty());
    }

    #[test]
    fn a_service_is_what_the_manifest_says() {
        let service = Service {
            command: vec!["server".into(), "--fast".into()],
            env: BTreeMap::from([
                ("NOTIFY_SOCKET".into(), "/elsewhere".into()),
                ("PATH".into(), "/bin".into()),
            ]),
            name: "web".into(),
            ready: Readiness::Started,
            ready_timeout_s: 5,
            healthcheck: None,
            restart: Restart::OnFailure,
            stop_signal: StopSignal::TERM,
            stop_timeout_s: 10,
            secrets: vec!["token".into()],
            user: "www".into(),
            workdir: "/srv".into(),
        };
        let users = Users {
            passwd: "www:x:33:34::/srv/www:\n".into(),
            group: "tls:x:7:www\n".into(),
            may_set_groups: true,
        };
        let unit = self::service(&service, &users).unwrap();
        assert_eq!((unit.launch.program.to_str(), unit.launch.args.len()), (Some("server"), 1));
        let names: Vec<_> = unit
            .launch
            .env
            .iter()
            .map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap()))
            .collect();
        assert!(names.contains(&("NOTIFY_SOCKET", notify::SOCKET_PATH)));
        assert_eq!(names.last(), Some(&("CREDENTIALS_DIRECTORY", "/run/glasshouse/secrets/web")));
        assert_eq!(names[1], ("PATH", "/bin"));
        assert!(names.contains(&("HOME", "/srv/www")));
        let confinement = unit.launch.confinement.unwrap();
        assert_eq!((confinement.uid, confinement.gid, confinement.groups), (33, 34, Some(vec![7])));
        assert_eq!(unit.spec.ready_timeout, None);
        let said = Service { env: BTreeMap::from([(HOME.into(), "/own".into())]), ..service.clone() };
        let homes: Vec<_> =
            self::service(&said, &users).unwrap().launch.env.into_iter().filter(|e| e.0 == HOME).collect();
        assert_eq!(homes, [(HOME.into(), "/own".into())]);
        let unknown = self::service(&Service { user: "1234".into(), ..service.clone() }, &users).unwrap();
        assert!(unknown.launch.env.contains(&(HOME.into(), "/".into())));
        let nobody = Service { user: "nobody".into(), ..service };
        assert!(matches!(self::service(&nobody, &users), Err(PlanError::User { .. })));
    }
}
