//! `kuberewind pcapdump stop` and `start`.

use crate::agent::Switch;
use crate::cli::{SettingsArgs, SwitchCommand};
use crate::client::{Client, NotRunning};
use crate::exit::Exit;

use super::settings;

/// Switches recording off or on, now and for recorders to come.
pub(super) fn switch(command: &SwitchCommand, args: &SettingsArgs) -> anyhow::Result<Exit> {
    let (on, switch) = match command {
        SwitchCommand::Start(args) => (true, args),
        SwitchCommand::Stop(args) => (false, args),
    };
    let verb = if on { "start" } else { "stop" };
    if !switch.local {
        return Err(super::needs_local(&format!("{verb} this machine's recording")));
    }
    let dir = settings::data_dir(args)?;
    match Client::connect(&dir) {
        Ok(mut client) => {
            client.set_recording(on)?;
            anstream::println!("recording {}", if on { "started" } else { "stopped" });
        }
        Err(error) if error.is::<NotRunning>() && dir.is_dir() => {
            Switch::write(&dir, on)?;
            anstream::println!(
                "{error}; the next one will {}",
                if on { "record" } else { "not record until `pcapdump start`" }
            );
        }
        Err(error) => return Err(error),
    }
    Ok(Exit::Complete)
}
