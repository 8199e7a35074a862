//! `completions`: completion scripts for shells. Those of bash, zsh and fish also complete the
//! names of tasks, which they ask `procledger __tasks` for.

use clap::{Arg, Args, Command};
use clap_complete::Shell;
use procledger::{Ledger, Query};

use crate::{
    context::Context,
    exit::{Exit, Failure, Result},
    output,
    render::escape,
};

/// Subcommands whose arguments are tasks.
const OF_TASKS: [&str; 5] = ["ps", "tree", "kill", "wait", "forget"];
/// The newest ended processes, whose tasks are offered after those that run.
const ENDED: u32 = 200;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  procledger completions bash > ~/.local/share/bash-completion/completions/procledger"
)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(self, mut command: Command) -> Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "procledger", &mut script);
        let script = String::from_utf8(script)
            .map_err(|error| Failure::because("failed to make the script", &error))?;
        output::print(match self.shell {
            Shell::Bash => bash(&script, &command),
            Shell::Zsh => zsh(&script),
            Shell::Fish => script + FISH,
            _ => script,
        })?;
        Ok(Exit::DONE)
    }
}

/// Print the names of the tasks, one a line, for completion scripts.
#[derive(Debug, Args)]
pub(crate) struct TasksArgs {}

impl TasksArgs {
    /// Prints nothing if there is no ledger.
    #[expect(clippy::unused_self, reason = "as the other subcommands")]
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        if context.has_ledger() {
            output::print(names(&context.read()?)?)?;
        }
        Ok(Exit::DONE)
    }
}

/// Returns the tasks, those that run first. A name that cannot be shown in one line as it is cannot
/// be completed.
fn names(ledger: &Ledger) -> Result<String> {
    let (running, ended) = (ledger.roots()?, ledger.history(Query::new().limit(ENDED))?);
    let mut names: Vec<&str> = Vec::new();
    for task in running.iter().chain(&ended).filter_map(|row| row.spec.task_id.as_ref()) {
        let name = task.as_str();
        if escape(name) == name && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names.into_iter().flat_map(|name| [name, "\n"]).collect())
}

/// Completes what clap completes, and then tasks. A candidate is quoted, unless a quote is open,
/// and is without what precedes the word for readline: a colon or an equals sign begins a new one.
const BASH: &str = r#"
_procledger_tasks() {
    _procledger "$@"
    local cur=${COMP_WORDS[COMP_CWORD]} command= option= i word name shown db=()
    for (( i = 1; i < COMP_CWORD; i++ )); do
        word=${COMP_WORDS[i]}
        if [[ -n $option ]]; then
            [[ $word != = ]] || continue
            [[ $option != --db ]] || db=(--db "$word")
            option=
            continue
        fi
        case $word in
            -- ) break ;;
            @VALUES@ ) option=$word ;;
            -* ) ;;
            * ) [[ -n $command ]] || command=$word ;;
        esac
    done
    case $command,$option in
        @TASKS@ ) [[ $cur != -* ]] || return 0 ;;
        report,--task ) [[ $cur != = ]] || cur= ;;
        * ) return 0 ;;
    esac
    # No options, and no files if there is no task.
    COMPREPLY=()
    compopt +o default +o bashdefault 2>/dev/null || :
    local line=${COMP_LINE:0:COMP_POINT}
    local whole=${line##*[[:space:]]}
    whole=${whole#--task=}
    while IFS= read -r name; do
        case $whole in
            [\'\"]* ) shown=${whole:0:1}$name ;;
            * ) printf -v shown %q "$name" ;;
        esac
        if [[ $shown == "$whole"* ]]; then
            case $whole in
                [\'\"]* ) COMPREPLY+=("$name") ;;
                * ) COMPREPLY+=("${shown#"${whole%"$cur"}"}") ;;
            esac
        fi
    done < <(procledger "${db[@]}" __tasks 2>/dev/null)
}
"#;

fn bash(script: &str, command: &Command) -> String {
    let subcommands = OF_TASKS.iter().filter_map(|name| command.find_subcommand(name));
    let report = command.find_subcommand("report");
    let options = [command].into_iter().chain(subcommands).chain(report);
    let takes_value = |arg: &&Arg| arg.get_action().takes_values() && !arg.is_positional();
    let mut values: Vec<String> = (options.flat_map(Command::get_arguments).filter(takes_value))
        .flat_map(|arg| {
            let short = arg.get_short().map(|short| format!("-{short}"));
            short.into_iter().chain(arg.get_long().map(|long| format!("--{long}")))
        })
        .collect();
    values.sort_unstable();
    values.dedup();
    let tasks: Vec<String> = OF_TASKS.iter().map(|name| format!("{name},")).collect();
    let function = BASH.replace("@VALUES@", &values.join("|")).replace("@TASKS@", &tasks.join("|"));
    let (start, registration) = script.rsplit_once("\nif [[ ").unwrap_or((script, ""));
    let registration = registration.replace("-F _procledger ", "-F _procledger_tasks ");
    format!("{start}\n{function}\nif [[ {registration}")
}

const ZSH: &str = r#"(( $+functions[_procledger_task_names] )) ||
_procledger_task_names() {
    local -a names db
    (( ! $+opt_args[--db] )) || db=(--db "${(Q)opt_args[--db]}")
    names=("${(@f)$(procledger $db __tasks 2>/dev/null)}")
    compadd "$@" -a names
}

"#;

fn zsh(script: &str) -> String {
    let lines = script.lines().map(|line| {
        let is_of_tasks = line.contains("::tasks -- ") || line.contains(":TASK:_default'");
        let line = if is_of_tasks {
            line.replace(":_default'", ":_procledger_task_names'")
        } else {
            line.to_owned()
        };
        line + "\n"
    });
    let script: String = lines.collect();
    let start = "if [ \"$funcstack[1]\" = \"_procledger\" ]";
    script.replacen(start, &format!("{ZSH}{start}"), 1)
}

const FISH: &str = r#"
function __fish_procledger_tasks
    set -l db
    set -l words (commandline -opc)
    for i in (seq (count $words))
        switch $words[$i]
            case --db
                set -q words[(math $i + 1)]; and set db --db $words[(math $i + 1)]
            case '--db=*'
                set db $words[$i]
        end
    end
    procledger $db __tasks 2>/dev/null
end
complete -c procledger -n "__fish_procledger_using_subcommand ps tree kill wait forget" -f -a "(__fish_procledger_tasks)"
complete -c procledger -n "__fish_procledger_using_subcommand report" -l task -x -a "(__fish_procledger_tasks)"
"#;
