//! `--name value` pairs.

use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// What is left of the pairs: each is taken once, and what nobody took is an error.
#[derive(Debug)]
pub(super) struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    pub(super) fn parse(arguments: &[&'a str]) -> Result<Self> {
        let pair = |pair: &[&'a str]| match *pair {
            [name, value] if name.starts_with("--") => Ok((name, value)),
            _ => bail!("{} is no option with a value", pair[0]),
        };
        Ok(Self(arguments.chunks(2).map(pair).collect::<Result<_>>()?))
    }

    /// The value of `name`, or `default`.
    pub(super) fn take<T: FromStr>(&mut self, name: &str, default: T) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let Some(at) = self.0.iter().position(|(known, _)| *known == name) else {
            return Ok(default);
        };
        let (_, value) = self.0.remove(at);
        value.parse().with_context(|| format!("{name} {value}"))
    }

    /// The words of `all` that `name` lists with commas; all of them when it is not given.
    pub(super) fn choose<T: Copy>(&mut self, name: &str, all: &[(&str, T)]) -> Result<Vec<T>> {
        let chosen: String = self.take(name, String::new())?;
        let one = |word: &str| {
            let names = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let found = all.iter().find(|(name, _)| *name == word);
            found
                .map(|(_, one)| *one)
                .with_context(|| format!("{name}: {word}: not of {}", names()))
        };
        if chosen.is_empty() {
            return Ok(all.iter().map(|(_, one)| *one).collect());
        }
        chosen.split(',').map(one).collect()
    }

    /// Fails when something was not taken.
    pub(super) fn end(self) -> Result<()> {
        match self.0.first() {
            Some((name, _)) => bail!("unknown option {name}"),
            None => Ok(()),
        }
    }
}
