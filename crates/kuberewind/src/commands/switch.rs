//! `kuberewind pcapdump stop` and `start`.

use std::time::Duration;

use kuberewind_cluster::agents::{Agent, Health};
use kuberewind_cluster::control::{self, Recording};
use kuberewind_cluster::portforward::{self, Patience};
use kuberewind_cluster::{Access, ClusterError};
use tokio::time::{Instant, sleep, timeout_at};

use crate::agent::Switch;
use crate::cli::{ClusterArgs, SettingsArgs, SwitchCommand};
use crate::client::{Client, NotRunning};
use crate::exit::{Exit, one_line};

use super::cluster::Cluster;
use super::fleet::{AT_A_TIME, Fleet};
use super::settings;

/// How long agents may take to follow. They watch the switch, so a second is usual.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often they are asked.
const EVERY: Duration = Duration::from_millis(300);

/// An agent that does not answer in this time is asked again.
const ANSWER: Patience =
    Patience { connect: Duration::from_secs(5), silence: Duration::from_secs(5) };

/// Switches recording off or on, now and for recorders to come.
pub(super) fn switch(command: &SwitchCommand, args: &SettingsArgs) -> anyhow::Result<Exit> {
    let (on, switch) = match command {
        SwitchCommand::Start(args) => (true, args),
        SwitchCommand::Stop(args) => (false, args),
    };
    if switch.local { switch_here(on, args) } else { switch_cluster(on, &switch.cluster) }
}

fn switch_here(on: bool, args: &SettingsArgs) -> anyhow::Result<Exit> {
    let dir = settings::data_dir(args)?;
    match Client::connect(&dir) {
        Ok(mut client) => {
            client.set_recording(on)?;
            anstream::println!("recording {}", done(on));
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

fn done(on: bool) -> &'static str {
    if on { "started" } else { "stopped" }
}

fn switch_cluster(on: bool, args: &ClusterArgs) -> anyhow::Result<Exit> {
    let verb = if on { "start" } else { "stop" };
    let cluster = Cluster::open(args, &format!("{verb} this machine's recording"))?;
    let Cluster { runtime, access, namespace } = &cluster;
    let recording = if on { Recording::Started } else { Recording::Stopped };
    runtime.block_on(control::set(access, namespace, recording))?;
    match runtime.block_on(portforward::review(access, namespace)) {
        Err(ClusterError::Forbidden { right, .. }) => {
            anstream::println!(
                "the agents are told; whether recording has {} is not known: asking them needs the right {right}",
                done(on)
            );
            return Ok(Exit::Complete);
        }
        reviewed => reviewed?,
    }
    let (followed, others) = runtime.block_on(follow(access, namespace, on))?;
    anstream::println!("recording {} on {}", done(on), nodes(followed.len()));
    for (node, why) in &others {
        anstream::eprintln!(
            "node {node} has not {} ({why}); it will as soon as its agent hears of it",
            done(on)
        );
    }
    Ok(if others.is_empty() { Exit::Complete } else { Exit::Incomplete })
}

fn nodes(count: usize) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

/// The nodes whose agents say that they followed, and the others with the reason.
pub(super) async fn follow(
    access: &Access,
    namespace: &str,
    on: bool,
) -> anyhow::Result<(Vec<String>, Vec<(String, String)>)> {
    let deadline = Instant::now() + PATIENCE;
    let mut followed: Vec<String> = Vec::new();
    let mut others: Vec<(String, String)> = Vec::new();
    loop {
        let fleet = Fleet::list(access, namespace).await?.with_patience(ANSWER).with_tries(1);
        let fleet = fleet.only(|agent| !followed.contains(&agent.node));
        let asked = fleet.ask(AT_A_TIME, async |mut session, _| session.status().await);
        let Ok(answers) = timeout_at(deadline, asked).await else {
            let late = |agent: &Agent| (agent.node.clone(), "no answer in time".to_owned());
            return Ok((followed, fleet.agents().iter().map(late).collect()));
        };
        others.clear();
        let mut hopeful = false;
        for (Agent { node, health, .. }, answer) in answers {
            match answer {
                Ok(status) if status.recording == on => {
                    followed.push(node);
                    continue;
                }
                Ok(_) => others.push((node, "not yet".to_owned())),
                Err(error) => others.push((node, one_line(&error))),
            }
            hopeful |= matches!(health, Health::Ready | Health::NotReady | Health::Starting { .. });
        }
        if !hopeful || Instant::now() + EVERY >= deadline {
            return Ok((followed, others));
        }
        sleep(EVERY).await;
    }
}
