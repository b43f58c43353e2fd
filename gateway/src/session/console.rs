//! A session of the administrative database: its own small language in the simple and the extended protocol.

use std::sync::Arc;

use super::portals::Portal;
use super::Session;
use crate::exec::bound::{Bound, Statement};
use crate::exec::console::{run, Answer};
use crate::exec::describe::Description;
use crate::exec::failure::Failure;
use crate::exec::show::Subject;
use crate::plan::console::{parse, ConsoleCommand};
use crate::pool::connection::StatementId;
use crate::sql::split::split;
use crate::wire::frontend::{self, Bind, Execute, Formats, Parse};
use crate::wire::tag::client as tag;
use crate::wire::{backend, Frame, PgError, SqlState, Target};

impl Session {
    pub(super) async fn console_message(&mut self, frame: Frame) -> Result<bool, Failure> {
        let result = match frame.tag() {
            tag::QUERY => {
                self.skipping = false;
                let result = self.console_query(&frame).await;
                self.console_report(result)?;
                self.ready();
                return Ok(true);
            }
            tag::SYNC => {
                self.skipping = false;
                self.ready();
                return Ok(true);
            }
            tag::FLUSH => return self.executor.client.flush().await.map(|()| true),
            tag::TERMINATE => return Ok(false),
            _ if self.skipping => return Ok(true),
            tag::PARSE => self.console_parse(&frame),
            tag::BIND => self.console_bind(&frame),
            tag::DESCRIBE => self.console_describe(&frame),
            tag::EXECUTE => self.console_execute(&frame).await,
            tag::CLOSE => self.close_named(&frame).await,
            other => {
                let message = format!("message type {other} is not for the administrative database");
                Err(super::ended(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)))
            }
        };
        self.skipping = result.is_err();
        self.console_report(result)?;
        Ok(true)
    }

    fn console_report(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        match result {
            Err(Failure::Gone(error)) => Err(Failure::Gone(error)),
            Err(failure) => {
                self.report(&failure);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn console_query(&mut self, frame: &Frame) -> Result<(), Failure> {
        self.executor.cancel.reset();
        let text = frontend::parse_query(frame.body()).map_err(PgError::from)?;
        let statements = split(text).map_err(|error| crate::plan::refuse::lexical_error(&error, text))?;
        if statements.is_empty() {
            backend::empty_query_response(self.executor.client.out());
        }
        for range in statements {
            let answer = run(&mut self.executor, &parse(&text[range])?).await?;
            self.console_answer(&answer, true, None)?;
        }
        Ok(())
    }

    fn console_answer(&mut self, answer: &Answer, describe: bool, formats: Option<Formats<'_>>) -> Result<(), Failure> {
        let out = self.executor.client.out();
        for notice in &answer.notices {
            backend::notice_response(out, notice);
        }
        if let Some(table) = &answer.table {
            if describe {
                backend::row_description(out, &table.fields());
            }
            table.encode_rows(out, formats)?;
        }
        match answer.tag {
            Some(tag) => backend::command_complete(out, tag),
            None => backend::empty_query_response(out),
        }
        Ok(())
    }

    fn console_parse(&mut self, frame: &Frame) -> Result<(), Failure> {
        let message = Parse::parse(frame.body()).map_err(PgError::from)?;
        let limit = self.executor.gateway.config.limits.client_statements_max;
        if self.statements.len() >= limit {
            let message = format!("the session has {limit} prepared statements already (client_statements_max)");
            return Err(PgError::new(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message).into());
        }
        parse(message.query)?;
        let statement = Statement::new(Arc::from(message.query), Vec::new(), StatementId(0));
        self.statements.insert(message.statement.to_owned(), Arc::new(statement));
        backend::parse_complete(self.executor.client.out());
        Ok(())
    }

    fn console_bind(&mut self, frame: &Frame) -> Result<(), Failure> {
        let bind = Bind::parse(frame.body()).map_err(PgError::from)?;
        let statement = self.statement_named(bind.statement)?;
        if !bind.parameters.is_empty() {
            let message = "commands of the administrative database have no parameters";
            return Err(PgError::new(SqlState::PROTOCOL_VIOLATION, message).into());
        }
        let bound = Arc::new(Bound { statement, bind: Some(frame.clone()) });
        // As many as a client has statements; the unnamed one is replaced.
        if self.portals.len() >= self.executor.gateway.config.limits.client_statements_max {
            self.portals.clear();
        }
        self.portals.insert(bind.portal.to_owned(), Portal::new(bound, 0));
        backend::bind_complete(self.executor.client.out());
        Ok(())
    }

    fn console_describe(&mut self, frame: &Frame) -> Result<(), Failure> {
        let (target, name) = frontend::parse_target("Describe", frame.body()).map_err(PgError::from)?;
        match target {
            Target::Statement => {
                let statement = self.statement_named(name)?;
                description(&statement)?.encode_statement(self.executor.client.out());
            }
            Target::Portal => {
                let portal = self.portal_named(name)?;
                let formats = portal.bound.parsed()?.map(|bind| bind.result_formats);
                description(&portal.bound.statement)?.encode_portal(self.executor.client.out(), formats);
            }
        }
        Ok(())
    }

    async fn console_execute(&mut self, frame: &Frame) -> Result<(), Failure> {
        self.executor.cancel.reset();
        let execute = Execute::parse(frame.body()).map_err(PgError::from)?;
        let portal = self.portal_named(execute.portal)?;
        let answer = run(&mut self.executor, &parse(&portal.bound.statement.sql)?).await?;
        let formats = portal.bound.parsed()?.map(|bind| bind.result_formats);
        self.console_answer(&answer, false, formats)
    }
}

fn description(statement: &Statement) -> Result<Description, Failure> {
    let fields = match parse(&statement.sql)? {
        ConsoleCommand::Show(what) => {
            Some(Subject::named(&what).ok_or_else(|| crate::exec::show::unknown(&what))?.fields())
        }
        _ => None,
    };
    Ok(Description { parameters: Vec::new(), fields })
}
