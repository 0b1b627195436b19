//! Writes the manual page and the completion scripts of a program from its command line.
//!
//! The programs with many verbs call this; where the text goes is theirs to say.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use clap::{Arg, Command};
use clap_mangen::Man;

pub use clap_complete::Shell;

/// The script that has `shell` complete the words of `command`.
pub fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// The manual page of `command`, in roff: one page, with all its verbs but hidden ones.
pub fn page(command: &Command) -> Vec<u8> {
    // Arguments may be put together only when they are asked for.
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let mut page = Vec::new();
    write_page(&command, &mut page).expect("memory takes whatever is written");
    page
}

fn write_page(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    write_verbs(command, command.get_name(), page)?;
    write_extra(command, &man, page)?;
    // Without a version it would panic.
    command.get_version().map_or(Ok(()), |_| man.render_version_section(page))
}

/// A verb without the options that it has from the command above it, which told of them.
fn without_those_of(command: &Command, verb: Command) -> Command {
    let is_from_above = |arg: &Arg| {
        command.get_arguments().any(|above| above.is_global_set() && above.get_id() == arg.get_id())
    };
    verb.mut_args(|arg| if is_from_above(&arg) { arg.hide(true) } else { arg })
}

/// What the help ends with, which few commands have.
fn write_extra(command: &Command, man: &Man, page: &mut Vec<u8>) -> io::Result<()> {
    let extra = command.get_after_long_help().or(command.get_after_help());
    extra.map_or(Ok(()), |_| man.render_extra_section(page))
}

/// A section for each verb below `command`, in which the sections of a page of its own are paragraphs.
fn write_verbs(command: &Command, name: &str, page: &mut Vec<u8>) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("{name} {}", verb.get_name());
        let man = Man::new(without_those_of(command, verb.clone()).bin_name(&name));
        let mut sections = Vec::new();
        man.render_synopsis_section(&mut sections)?;
        man.render_description_section(&mut sections)?;
        man.render_options_section(&mut sections)?;
        write_extra(verb, &man, &mut sections)?;
        writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
        let paragraphs = String::from_utf8_lossy(&sections).replace("\n.SH ", "\n.SS ");
        page.extend(paragraphs.replacen(".SH ", ".SS ", 1).bytes());
        write_verbs(verb, &name, page)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Command {
        let inner = Command::new("inner").about("Goes deeper");
        let inner = inner.defer(|inner| inner.arg(Arg::new("far-away").long("far-away")));
        let everywhere = Arg::new("everywhere").long("everywhere").global(true);
        let outer = Command::new("outer").subcommand(inner).after_help("Told at the end.");
        Command::new("prog")
            .arg(everywhere)
            .about("Does things")
            .subcommand(outer)
            .subcommand(Command::new("secret").hide(true))
    }

    #[test]
    fn one_page_has_every_verb_that_is_not_hidden() {
        let page = String::from_utf8(page(&program())).unwrap();
        for words in
            [".TH prog", ".SH \"PROG OUTER\"", ".SH \"PROG OUTER INNER\"", "far\\-away", "Told at the end."]
        {
            assert!(page.contains(words), "{words}: {page}");
        }
        assert!(!page.to_lowercase().contains("secret"), "{page}");
        let options = page.lines().filter(|line| line.starts_with("\\fB\\-\\-everywhere")).count();
        assert_eq!(options, 1, "an option of all verbs is told once: {page}");
        let sections = page.lines().filter(|line| line.starts_with(".SH")).count();
        let verbs = page.matches(".SH \"PROG").count();
        assert_eq!((sections, verbs), (6, 2), "the sections of verbs are paragraphs: {page}");
    }

    #[test]
    fn every_shell_has_a_script_that_names_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completions(program(), shell)).unwrap();
            assert!(script.contains("outer") && script.contains("far-away"), "{shell}");
        }
    }
}
