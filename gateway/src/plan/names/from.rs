//! FROM: tables, joins, derived tables, functions and CTE references, each becoming a relation of the level.

use sqlparser::ast::{FunctionArg, FunctionArgExpr};

use super::*;
use crate::catalog::effects::Effects;
use crate::catalog::Events;
use crate::plan::reach::Code;
use crate::sql::dialect::{is_made_up_name, using_alias};

/// The name of a function in FROM; of several, in ROWS FROM, that of the first.
fn called(name: &ObjectName, args: &[FunctionArg]) -> String {
    match args.first() {
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(first)))) if is_made_up_name(name) => {
            last_part(&first.name)
        }
        _ => last_part(name),
    }
}

impl<'a> Analysis<'a> {
    /// Adds a FROM item to the innermost scope.
    pub fn from_item(
        &mut self,
        item: &TableWithJoins,
        joins: &mut Vec<OuterJoin>,
        outer: &mut Vec<usize>,
        core: &mut Blocked,
    ) -> Result<(), PgError> {
        self.table_with_joins(item, joins, outer, core).map(|_| ())
    }

    pub(super) fn table_with_joins(
        &mut self,
        item: &TableWithJoins,
        joins: &mut Vec<OuterJoin>,
        outer: &mut Vec<usize>,
        core: &mut Blocked,
    ) -> Result<Vec<usize>, PgError> {
        let (tree, lateral) = self.factor(&item.relation, joins, outer, core)?;
        let mut left = tree.relations;
        let here = self.scopes.len() - 1;
        if let Some(anchor) = left.iter().find_map(|&r| self.scopes[here].relations[r].anchor) {
            lateral.into_iter().for_each(|attribute| self.connect(anchor, attribute));
        }
        for join in &item.joins {
            let (right, lateral) = self.factor(&join.relation, joins, outer, core)?;
            left = self.join(left, right.relations, join, lateral, joins, outer, core)?;
        }
        Ok(left)
    }

    #[allow(clippy::too_many_arguments)] // The state of one FROM clause, threaded through its tree.
    fn join(
        &mut self,
        left: Vec<usize>,
        right: Vec<usize>,
        join: &Join,
        lateral: Vec<usize>,
        joins: &mut Vec<OuterJoin>,
        outer: &mut Vec<usize>,
        core: &mut Blocked,
    ) -> Result<Vec<usize>, PgError> {
        use JoinOperator as J;
        let (kind, constraint) = match &join.join_operator {
            J::Join(c) | J::Inner(c) | J::CrossJoin(c) => (None, c),
            J::Left(c) | J::LeftOuter(c) => (Some(OuterKind::Left), c),
            J::Right(c) | J::RightOuter(c) => (Some(OuterKind::Right), c),
            J::FullOuter(c) => (Some(OuterKind::Full), c),
            _ => {
                return Err(refused("this kind of join is not PostgreSQL's", "", "Use JOIN, LEFT, RIGHT or FULL JOIN."))
            }
        };
        let filter = match kind {
            None => Filter::Always,
            Some(OuterKind::Left) => Filter::Nullable(right.clone()),
            Some(OuterKind::Right) => Filter::Nullable(left.clone()),
            Some(OuterKind::Full) => Filter::Nothing,
        };
        let mut pairs = Vec::new();
        match constraint {
            JoinConstraint::On(on) => {
                pairs = self.condition(on, &filter);
                let level = self.collect(&[on]);
                let (sharded, block, _) = self.level_sublinks(level)?;
                self.sharded_conditions(sharded);
                if sharded {
                    *core = core.take().or(block).or_else(|| {
                        let why = "A join condition has a subquery over a sharded table.";
                        Some(Box::new(not_over_shards(why, GIVE_THE_KEY)))
                    });
                }
            }
            JoinConstraint::Using(names) => {
                for name in names {
                    if let Some(alias) = using_alias(name) {
                        // Its columns are not followed.
                        let relation = Relation { alias, columns: None, sharded: false, anchor: None, nullable: true };
                        self.add(relation);
                        continue;
                    }
                    let name = name_parts(name).and_then(|parts| parts.last().cloned()).unwrap_or_default();
                    self.merge(&name, &left, &right, kind, &filter, &mut pairs);
                }
            }
            JoinConstraint::Natural => {
                let names = self.common_columns(&left, &right)?;
                for name in names {
                    self.merge(&name, &left, &right, kind, &filter, &mut pairs);
                }
            }
            JoinConstraint::None => {}
        }
        let here = self.scopes.len() - 1;
        let make_nullable = |scope: &mut Scope, relations: &[usize]| {
            for &relation in relations {
                scope.relations[relation].nullable = true;
            }
        };
        match kind {
            None => self.connect_pairs(&pairs, outer),
            Some(OuterKind::Left) => make_nullable(&mut self.scopes[here], &right),
            Some(OuterKind::Right) => make_nullable(&mut self.scopes[here], &left),
            Some(OuterKind::Full) => {
                make_nullable(&mut self.scopes[here], &left);
                make_nullable(&mut self.scopes[here], &right);
            }
        }
        match kind {
            Some(kind) => {
                joins.push(OuterJoin { kind, left: left.clone(), right: right.clone(), pairs, lateral });
            }
            None => {
                // LATERAL: joined inside.
                for attribute in lateral {
                    if let Some(anchor) = right.iter().find_map(|&r| self.scopes[here].relations[r].anchor) {
                        self.connect(anchor, attribute);
                    }
                }
            }
        }
        Ok(left.into_iter().chain(right).collect())
    }

    fn sharded_conditions(&mut self, sharded: bool) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.sharded_conditions |= sharded;
        }
    }

    fn common_columns(&self, left: &[usize], right: &[usize]) -> Result<Vec<String>, PgError> {
        let scope = &self.scopes[self.scopes.len() - 1];
        let names = |side: &[usize]| -> Option<Vec<String>> {
            let mut out = Vec::new();
            for &relation in side {
                for column in scope.relations[relation].columns.as_ref()? {
                    out.extend(column.name.clone());
                }
            }
            Some(out)
        };
        match (names(left), names(right)) {
            (Some(left), Some(right)) => Ok(left.into_iter().filter(|name| right.contains(name)).collect()),
            _ => Err(refused("NATURAL JOIN of something whose columns are not known", "", "Use JOIN ... USING.")),
        }
    }

    fn merge(
        &mut self,
        name: &str,
        left: &[usize],
        right: &[usize],
        kind: Option<OuterKind>,
        filter: &Filter,
        pairs: &mut Vec<(Found, Found)>,
    ) {
        let here = self.scopes.len() - 1;
        let find = |side: &[usize]| -> Option<Found> {
            let mut found = None;
            for &number in side {
                let relation = &self.scopes[here].relations[number];
                let Some(column) =
                    relation.columns.iter().flatten().find(|column| column.name.as_deref() == Some(name))
                else {
                    continue;
                };
                let this = Found {
                    level: here,
                    relation: Some(number),
                    attribute: column.attribute,
                    nullable: column.nullable || relation.nullable,
                };
                // Several: merged before, the first one stands for them unless it is nullable.
                found = match found {
                    None => Some(this),
                    Some(Found { nullable: true, .. }) if !this.nullable => Some(this),
                    other => other,
                };
            }
            found
        };
        let (left, right) = (find(left), find(right));
        if let (Some(left), Some(right)) = (left, right) {
            self.equal(left, right, filter, pairs);
        }
        let side = match kind {
            None => left.filter(|found| found.attribute.is_some()).or(right),
            Some(OuterKind::Left) => left,
            Some(OuterKind::Right) => right,
            Some(OuterKind::Full) => None,
        };
        let merged = Output {
            name: Some(name.to_owned()),
            attribute: side.and_then(|found| found.attribute),
            nullable: side.is_none_or(|found| found.nullable),
        };
        let scope = &mut self.scopes[here];
        scope.merged.retain(|output| output.name.as_deref() != Some(name));
        scope.merged.push(merged);
    }

    fn factor(
        &mut self,
        factor: &TableFactor,
        joins: &mut Vec<OuterJoin>,
        outer: &mut Vec<usize>,
        core: &mut Blocked,
    ) -> Result<(Tree, Vec<usize>), PgError> {
        match factor {
            TableFactor::Table { name, alias, args: None, sample, version: None, with_ordinality: false, .. } => {
                let relation = self.table(name, alias.as_ref(), sample.is_some(), core)?;
                Ok((self.add(relation), Vec::new()))
            }
            TableFactor::Table { name, alias, args: Some(args), .. } => {
                let level = self.collect(&args.args.iter().collect::<Vec<_>>());
                self.function_item(level, called(name, &args.args), alias.as_ref(), core)
            }
            TableFactor::Function { name, args, alias, .. } => {
                let level = self.collect(&args.iter().collect::<Vec<_>>());
                self.function_item(level, last_part(name), alias.as_ref(), core)
            }
            TableFactor::UNNEST { array_exprs, alias, .. } => {
                let level = self.collect(&array_exprs.iter().collect::<Vec<_>>());
                self.function_item(level, "unnest".to_owned(), alias.as_ref(), core)
            }
            TableFactor::TableFunction { expr, alias } => {
                let level = self.collect(&[expr]);
                self.function_item(level, String::new(), alias.as_ref(), core)
            }
            TableFactor::JsonTable { alias, .. } | TableFactor::XmlTable { alias, .. } => {
                let level = self.collect(&[factor]);
                self.function_item(level, "xmltable".to_owned(), alias.as_ref(), core)
            }
            TableFactor::Derived { lateral, subquery, alias, .. } => {
                let facts = if *lateral {
                    self.query(subquery)?
                } else {
                    let own = self.scopes.pop();
                    let facts = self.query(subquery);
                    self.scopes.extend(own);
                    facts?
                };
                let lateral: Vec<usize> = facts.outer.iter().copied().filter(|a| self.in_scope(*a)).collect();
                outer.extend(facts.outer.iter().copied().filter(|a| !self.in_scope(*a)));
                let relation = self.derived(facts, alias.as_ref(), &[], !lateral.is_empty(), core);
                Ok((self.add(relation), lateral))
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                if alias.is_some() {
                    return Err(refused(
                        "an alias of a join in parentheses is not supported",
                        "The planner does not follow its columns.",
                        "Use a subquery: (SELECT * FROM ...) AS alias.",
                    ));
                }
                let relations = self.table_with_joins(table_with_joins, joins, outer, core)?;
                Ok((Tree { relations }, Vec::new()))
            }
            _ => Err(refused("this FROM item is not supported", "The planner does not know it.", "Use a subquery.")),
        }
    }

    fn add(&mut self, relation: Relation) -> Tree {
        let here = self.scopes.len() - 1;
        self.scopes[here].relations.push(relation);
        Tree { relations: vec![self.scopes[here].relations.len() - 1] }
    }

    fn function_item(
        &mut self,
        level: LevelExpressions,
        name: String,
        alias: Option<&TableAlias>,
        core: &mut Blocked,
    ) -> Result<(Tree, Vec<usize>), PgError> {
        let (sharded, block, _) = self.level_sublinks(level)?;
        self.sharded_conditions(sharded);
        if sharded {
            *core = core.take().or(block).or_else(|| {
                Some(Box::new(not_over_shards("A function in FROM has a subquery over a sharded table.", GIVE_THE_KEY)))
            });
        }
        self.derived_in_from |= self.scopes.len() == 1 && self.depth == 1;
        let alias = alias.map_or(name, |alias| ident_value(&alias.name));
        let relation = Relation { alias, columns: None, sharded: false, anchor: None, nullable: false };
        Ok((self.add(relation), Vec::new()))
    }

    fn derived(
        &mut self,
        facts: Facts,
        alias: Option<&TableAlias>,
        names: &[String],
        correlated: bool,
        core: &mut Blocked,
    ) -> Relation {
        if facts.sharded {
            // All rows of a correlated LATERAL query are of the outer row's shard, whatever it does with them.
            let block = if correlated { facts.core } else { facts.core.or(facts.finish) };
            *core = core.take().or(block);
        }
        self.derived_in_from |= self.scopes.len() == 1 && self.depth == 1;
        let mut columns = facts.columns;
        let renamed: Vec<String> = match alias {
            Some(alias) if !alias.columns.is_empty() => {
                alias.columns.iter().map(|column| ident_value(&column.name)).collect()
            }
            _ => names.to_vec(),
        };
        if let Some(columns) = &mut columns {
            for (column, name) in columns.iter_mut().zip(renamed) {
                column.name = Some(name);
            }
        }
        let anchor = facts.sharded.then(|| match facts.anchor {
            Some(anchor) => anchor,
            None => self.attribute(ringway_topology::token::KeyType::Int8),
        });
        Relation {
            alias: alias.map_or_else(String::new, |alias| ident_value(&alias.name)),
            columns,
            sharded: facts.sharded,
            anchor,
            nullable: false,
        }
    }

    fn table(
        &mut self,
        name: &ObjectName,
        alias: Option<&TableAlias>,
        sampled: bool,
        core: &mut Blocked,
    ) -> Result<Relation, PgError> {
        let parts =
            name_parts(name).ok_or_else(|| refused("this table name is not supported", "", "Use a plain name."))?;
        if let [single] = parts.as_slice() {
            let position = self.common.iter().rposition(|table| table.name == *single);
            if let Some(position) = position {
                let common = Rc::clone(&self.common[position]);
                return self.common_table(position, &common, alias, core);
            }
        }
        let resolved = self.context.table(&parts)?;
        let own_alias = alias.map(|alias| ident_value(&alias.name));
        let splice = if sampled { FilterSplice::Unknown } else { self.relation_splice(name, own_alias.as_deref()) };
        let mut relation = self.base(&resolved, splice, false);
        if let Some(own) = own_alias {
            relation.alias = own;
        }
        if self.scopes.len() == 1 && self.depth == 1 {
            self.base_tables.push((relation.alias.clone(), resolved.name.clone()));
            self.renamed_columns |= alias.is_some_and(|alias| !alias.columns.is_empty());
        }
        if let Some(alias) = alias {
            for (column, renamed) in relation.columns.iter_mut().flatten().zip(&alias.columns) {
                column.name = Some(ident_value(&renamed.name));
            }
        }
        Ok(relation)
    }

    /// Records a table and gives it as a relation called by its own name.
    pub fn base(
        &mut self,
        table: &crate::plan::context::ResolvedTable,
        splice: FilterSplice,
        written: bool,
    ) -> Relation {
        self.tables.insert(table.name.clone());
        let known = self.context.catalog.relation(&table.name);
        self.rules(table, written);
        let mut columns: Option<Vec<Output>> = known.map(|relation| {
            relation.columns.iter().map(|c| Output { name: Some(c.name.clone()), ..Output::default() }).collect()
        });
        let mut anchor = None;
        match &table.placed {
            Placed::Sharded { keyspace, key_column, key_type } => {
                let attribute = self.attribute(*key_type);
                anchor = Some(attribute);
                let columns = columns.get_or_insert_with(Vec::new);
                match columns.iter_mut().find(|column| column.name.as_deref() == Some(key_column)) {
                    Some(column) => column.attribute = Some(attribute),
                    None => columns.push(Output {
                        name: Some(key_column.clone()),
                        attribute: Some(attribute),
                        nullable: false,
                    }),
                }
                self.occurrences.push(Occurrence {
                    table: table.name.clone(),
                    keyspace: *keyspace,
                    key_column: key_column.clone(),
                    attribute,
                    splice,
                    written,
                });
            }
            Placed::Reference => {
                self.reference_written |= written;
                self.references.insert(table.name.clone());
            }
            Placed::Single => {
                self.singles.insert(table.name.clone());
            }
            Placed::System => {
                self.system = true;
                if written {
                    self.singles.insert(table.name.clone());
                }
            }
        }
        Relation { alias: table.name.name.clone(), columns, sharded: anchor.is_some(), anchor, nullable: false }
    }

    /// What servers run by themselves when the table is read or written.
    fn rules(&mut self, table: &crate::plan::context::ResolvedTable, written: bool) {
        let keyspace = match &table.placed {
            Placed::Sharded { keyspace, .. } => Some(*keyspace),
            _ => None,
        };
        let mut names = vec![table.name.clone()];
        let mut at = 0;
        while let Some(name) = names.get(at).cloned() {
            at += 1;
            let Some(relation) = self.context.catalog.relation(&name) else { continue };
            let events = if at == 1 { self.events } else { Events::ALL };
            let effects = if written { relation.on_write(events) } else { relation.on_read.clone() };
            if effects != Effects::default() {
                let what = if table.view {
                    format!("view {name}")
                } else {
                    format!("a trigger, rule, policy or default of {name}")
                };
                self.code.push(Code { what, effects, keyspace, called: !written });
            }
            // A delete, or another key, may reach further tables.
            let reaches = written && (events.update || events.delete);
            let further: Vec<TableName> =
                relation.cascades().filter(|reached| reaches && !names.contains(reached)).collect();
            names.extend(further);
        }
    }

    fn common_table(
        &mut self,
        position: usize,
        common: &Rc<CommonTable>,
        alias: Option<&TableAlias>,
        core: &mut Blocked,
    ) -> Result<Relation, PgError> {
        common.referenced.set(true);
        let unknown = |sharded: bool, anchor| Relation {
            alias: alias.map_or_else(|| common.name.clone(), |alias| ident_value(&alias.name)),
            columns: None,
            sharded,
            anchor,
            nullable: false,
        };
        match &common.body {
            CommonBody::Modifying { sharded } => {
                let anchor = sharded.then(|| self.attribute(ringway_topology::token::KeyType::Int8));
                Ok(unknown(*sharded, anchor))
            }
            CommonBody::Recursive => {
                self.recursive = true;
                Ok(unknown(false, None))
            }
            CommonBody::Query(body) => {
                let scopes = self.scopes.split_off(common.scopes.min(self.scopes.len()));
                let recursive = common.visible == usize::MAX;
                let visible = if recursive { self.common.len() } else { common.visible };
                let hidden = self.common.split_off(visible.min(self.common.len()));
                if recursive {
                    let marker = CommonTable { body: CommonBody::Recursive, ..(**common).clone() };
                    self.common[position] = Rc::new(marker);
                }
                let before = std::mem::replace(&mut self.recursive, false);
                let facts = self.query(body);
                let recursed = std::mem::replace(&mut self.recursive, before);
                if recursive {
                    self.common[position] = Rc::clone(common);
                }
                self.common.extend(hidden);
                self.scopes.extend(scopes);
                let mut facts = facts?;
                if recursed && facts.sharded {
                    facts.core = facts.core.or_else(|| {
                        Some(Box::new(not_over_shards("A recursive query reads sharded tables.", GIVE_THE_KEY)))
                    });
                    facts.columns = None;
                }
                if common.extended {
                    facts.columns = None;
                }
                let names = common.columns.clone();
                let mut relation = self.derived(facts, alias, &names, false, core);
                if alias.is_none() {
                    relation.alias.clone_from(&common.name);
                }
                Ok(relation)
            }
        }
    }

    /// Where a table's name stands in the text, with ONLY or `*`.
    pub fn relation_splice(&self, name: &ObjectName, alias: Option<&str>) -> FilterSplice {
        let Some((mut first, mut last)) = self.text.object_name(name) else { return FilterSplice::Unknown };
        let text = self.text;
        if first >= 1 && text.word(first - 1, "only") {
            first -= 1;
        }
        if first >= 1 && text.word(first - 1, "table") {
            // `TABLE t` takes neither an alias nor a subquery.
            return FilterSplice::Unknown;
        }
        if first >= 2 && text.punctuation(first - 1, b'(') && text.word(first - 2, "only") {
            return FilterSplice::Unknown;
        }
        if text.lexemes.get(last + 1).is_some_and(|next| next.is_operator(text.sql, "*")) {
            last += 1;
        }
        let own = name_parts(name).and_then(|parts| parts.last().cloned()).unwrap_or_default();
        FilterSplice::Relation {
            start: text.lexemes[first].start,
            end: text.lexemes[last].end,
            alias: alias.map_or(own, str::to_owned),
            aliased: alias.is_some(),
        }
    }
}
