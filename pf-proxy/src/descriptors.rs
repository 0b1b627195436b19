//! Room in the descriptor table for the promised number of connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of each connection: one to the client and one to the target.
const PER_CONNECTION: u64 = 2;

/// Listeners, logs, the runtime, and connections accepted but not yet admitted.
const RESERVE: u64 = 64;

/// Raises this process's limit of open files as far as `connections` need and the system allows. When it does not allow
/// enough, connections beyond wait in their listener's queue.
pub(crate) fn make_room(connections: usize) {
    let needed = (connections as u64).saturating_mul(PER_CONNECTION).saturating_add(RESERVE);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    let wanted = Rlimit { current: Some(needed), maximum: limit.maximum.map(|maximum| maximum.max(needed)) };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        // Only root may go beyond the maximum.
        let best = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let raised = setrlimit(Resource::Nofile, best).is_ok();
        let allowed = if raised { limit.maximum } else { limit.current };
        tracing::warn!(needed, allowed, "fewer open files allowed than the connection limit needs");
    }
}
