//! The contract between the runtime and whatever can run tasks.
//!
//! A **backend** is one way of reaching devices (the host's CPUs; a GPU vendor's driver), found by a probe
//! of its own, such as [`HostBackend::probe`](crate::HostBackend::probe). A **device** is one place where a
//! task can run, with memory of its own or a share of some.
//!
//! What every backend keeps:
//!
//! * **Probing never panics, and touches nothing.** It starts no thread, creates no context, prints
//!   nothing. A backend whose hardware or library is absent has no devices, which is no error; an error
//!   is a request of the user that cannot be met, and names the request.
//! * **Devices are fixed after the probe.** Their order, indices, names and capacities do not change while
//!   the backend lives; `devices()[i].index() == i`.
//! * **Names are unique** and read `architecture:index`, as in `cpu:0`: they are what errors and traces
//!   show.
//! * **Capacities are what this process may use**, not what the machine has, and several devices on one
//!   memory share it: their capacities never add up to more than there is.
//! * **The caller validates requests** against capacities before it places a task. A device reports what
//!   the hardware or the system refused, and never decides where work goes.
//!
//! The traits are object-safe, since a dynamic call costs far less than anything it starts.

/// One way of reaching devices. The module documentation has the contract.
pub trait Backend: Send + Sync {
    /// The architecture of all devices here, in lower case, as users write it in placements: `cpu`.
    fn architecture(&self) -> &'static str;

    /// The devices, in the order of their indices; empty when the hardware is absent.
    fn devices(&self) -> Vec<&dyn Device>;
}

/// One place where tasks run. The module documentation of its backend's trait has the contract.
pub trait Device: Send + Sync {
    /// The position among the devices of this architecture, from 0.
    fn index(&self) -> u32;

    /// The name shown to users, such as `cpu:0`.
    fn name(&self) -> &str;

    /// The bytes that tasks on this device may claim, all of them together.
    fn memory_capacity(&self) -> u64;
}
