//! Random schemas: tables, how they are distributed, and rows.

use super::types::Type;
use super::Maker;

const TABLES: std::ops::Range<i64> = 2..7;
/// Rows of a table: cross joins of three stay small.
const ROWS_MAX: i64 = 25;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// By its first column, with all tables of the same keyspace.
    Sharded(usize),
    Reference,
    Single,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub ty: Type,
    pub not_null: bool,
    pub default: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// The first columns are the primary key; 0: there is none.
    pub primary_key: usize,
    pub placement: Placement,
    /// Further clauses of CREATE TABLE: UNIQUE, FOREIGN KEY, CHECK.
    pub constraints: Vec<String>,
    pub indexes: Vec<String>,
    /// Literals, by column.
    pub rows: Vec<Vec<String>>,
}

/// Referenced tables come first.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    pub tables: Vec<Table>,
}

impl Table {
    fn create(&self) -> String {
        let mut parts: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let not_null = if column.not_null { " NOT NULL" } else { "" };
                let default = column.default.as_ref().map_or(String::new(), |value| format!(" DEFAULT {value}"));
                format!("{} {}{default}{not_null}", column.name, column.ty.column())
            })
            .collect();
        if self.primary_key > 0 {
            parts.push(format!("PRIMARY KEY ({})", self.names(self.primary_key)));
        }
        parts.extend(self.constraints.iter().cloned());
        format!("CREATE TABLE {} ({})", self.name, parts.join(", "))
    }

    fn distribute(&self) -> Option<String> {
        match self.placement {
            Placement::Sharded(_) => {
                Some(format!("SELECT create_distributed_table('{}', '{}')", self.name, self.columns[0].name))
            }
            Placement::Reference => Some(format!("SELECT create_reference_table('{}')", self.name)),
            Placement::Single => None,
        }
    }

    pub fn is_sharded(&self) -> bool {
        matches!(self.placement, Placement::Sharded(_))
    }

    pub fn is_reference(&self) -> bool {
        self.placement == Placement::Reference
    }

    /// The table's name and its shard key's.
    pub fn key(&self) -> (String, String) {
        (self.name.clone(), self.columns[0].name.clone())
    }

    /// Of the first columns.
    pub fn names(&self, count: usize) -> String {
        self.columns.iter().take(count).map(|column| &column.name[..]).collect::<Vec<_>>().join(", ")
    }

    fn fill(&self) -> Option<String> {
        let rows: Vec<String> = self.rows.iter().map(|row| format!("({})", row.join(", "))).collect();
        (!rows.is_empty()).then(|| format!("INSERT INTO {} VALUES {}", self.name, rows.join(", ")))
    }
}

impl Schema {
    pub fn create(&self) -> Vec<String> {
        let mut statements = vec!["CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')".to_owned()];
        statements.extend(self.tables.iter().map(Table::create));
        // Foreign keys between them are allowed once both are distributed; referenced ones come first.
        statements.extend(self.tables.iter().filter_map(Table::distribute));
        statements.extend(self.tables.iter().flat_map(|table| table.indexes.iter().cloned()));
        statements
    }

    pub fn fill(&self) -> Vec<String> {
        self.tables.iter().filter_map(Table::fill).collect()
    }

    pub fn clear(&self) -> Vec<String> {
        self.tables.iter().rev().map(|table| format!("DELETE FROM {}", table.name)).collect()
    }

    /// Also of what is there but in part.
    pub fn drop_if_there(&self) -> Vec<String> {
        let mut statements: Vec<String> =
            self.tables.iter().rev().map(|table| format!("DROP TABLE IF EXISTS {}", table.name)).collect();
        statements.push("DROP TYPE IF EXISTS mood".to_owned());
        statements
    }

    pub fn drop(&self) -> Vec<String> {
        let mut statements: Vec<String> =
            self.tables.iter().rev().map(|table| format!("DROP TABLE {}", table.name)).collect();
        statements.push("DROP TYPE mood".to_owned());
        statements
    }
}

/// What a keyspace's tables are sharded by.
const KEY_TYPES: &[Type] = &[Type::Int, Type::Big, Type::TextC, Type::Text, Type::Uuid, Type::Date];

impl Maker {
    pub fn schema(&mut self) -> Schema {
        let first = self.choose(KEY_TYPES);
        let mut keyspaces = vec![first];
        if self.chance(0.5) {
            // Of another family: the same one would be the same keyspace.
            let family = |ty: Type| {
                if ty.is_number() {
                    Type::Int
                } else if ty.is_text() {
                    Type::Text
                } else {
                    ty
                }
            };
            let second = self.choose(KEY_TYPES);
            if family(second) != family(first) {
                keyspaces.push(second);
            }
        }
        let mut schema = Schema::default();
        for number in 0..self.number(TABLES) {
            let placement = match number {
                0 => Placement::Sharded(0),
                _ => match self.number(0..10) {
                    0..=5 => Placement::Sharded(self.number(0..keyspaces.len() as i64) as usize),
                    6 | 7 => Placement::Reference,
                    _ => Placement::Single,
                },
            };
            let table = self.new_table(&schema, number, placement, &keyspaces);
            schema.tables.push(table);
        }
        schema
    }

    fn new_table(&mut self, schema: &Schema, number: i64, placement: Placement, keyspaces: &[Type]) -> Table {
        let mut columns = Vec::new();
        let column = |name: String, ty: Type, not_null: bool| Column { name, ty, not_null, default: None };
        let mut primary_key = 0;
        match placement {
            Placement::Sharded(keyspace) => {
                let mut ty = keyspaces[keyspace];
                if ty.is_number() && self.chance(0.3) {
                    ty = if ty == Type::Int { Type::Big } else { Type::Int };
                }
                columns.push(column(format!("k{keyspace}"), ty, true));
                if self.chance(0.75) {
                    columns.push(column("id".to_owned(), Type::Int, true));
                    primary_key = 2;
                } else if self.chance(0.5) {
                    primary_key = 1;
                }
            }
            _ => {
                columns.push(column("id".to_owned(), Type::Int, true));
                primary_key = usize::from(self.chance(0.9));
            }
        }
        let own = self.number(2..7);
        for index in 0..own {
            // Some names are shared by tables, for USING and NATURAL.
            let name = match self.chance(0.25) {
                true => format!("s{index}"),
                false => format!("t{number}c{index}"),
            };
            // What is shared has one type.
            let ty =
                if name.starts_with('s') { [Type::Int, Type::Text, Type::Num][index as usize % 3] } else { self.ty() };
            let not_null = self.chance(0.2);
            // Defaults of reference tables that are written as casts are refused, whatever they are.
            let exact = placement != Placement::Reference;
            let default = (exact && self.chance(0.3)).then(|| self.bare_literal(ty));
            columns.push(Column { name, ty, not_null, default });
        }
        let name = format!("t{number}");
        let mut table = Table {
            name,
            columns,
            primary_key,
            placement,
            constraints: Vec::new(),
            indexes: Vec::new(),
            rows: Vec::new(),
        };
        self.add_rows(&mut table);
        self.add_foreign_key(schema, &mut table);
        if self.chance(0.4) {
            let column = table.columns[self.number(0..table.columns.len() as i64) as usize].name.clone();
            table.indexes.push(format!("CREATE INDEX ON {} ({column})", table.name));
        }
        table
    }

    fn add_rows(&mut self, table: &mut Table) {
        let rows = match self.number(0..10) {
            0 => 0,
            1 => 1,
            _ => self.number(3..ROWS_MAX + 1),
        };
        // With skew: most rows have few keys, sometimes all have one.
        let keys: Vec<String> =
            (0..self.choose(&[1, 3, 6, 12])).map(|_| self.bare_literal(table.columns[0].ty)).collect();
        let mut taken = std::collections::HashSet::new();
        for number in 0..rows {
            let mut row = Vec::new();
            for (index, column) in table.columns.iter().enumerate() {
                let sharded = matches!(table.placement, Placement::Sharded(_));
                row.push(match (index, &column.name[..]) {
                    (0, _) if sharded && table.primary_key == 1 => self.bare_literal(column.ty),
                    (0, _) if sharded => self.choose(&keys[..]).clone(),
                    (_, "id") => (number + 1).to_string(),
                    _ if !column.not_null && self.chance(0.2) => "NULL".to_owned(),
                    _ => self.bare_literal(column.ty),
                });
            }
            if table.primary_key == 0 || taken.insert(row[..table.primary_key].to_vec()) {
                table.rows.push(row);
            }
        }
    }

    /// To a table that is colocated or a reference table; rows are made to fit.
    fn add_foreign_key(&mut self, schema: &Schema, table: &mut Table) {
        let Placement::Sharded(keyspace) = table.placement else { return };
        if !self.chance(0.4) {
            return;
        }
        let action = self.pick(&["", " ON DELETE CASCADE"]);
        for other in &schema.tables {
            let fits = other.primary_key == 1 && other.columns[0].ty == table.columns[0].ty;
            if other.placement == Placement::Sharded(keyspace) && fits {
                table.rows.retain(|row| other.rows.iter().any(|referenced| referenced[0] == row[0]));
                let key = &table.columns[0].name;
                table.constraints.push(format!("FOREIGN KEY ({key}) REFERENCES {}{action}", other.name));
                return;
            }
            let reference = other.placement == Placement::Reference && other.primary_key == 1;
            let Some(column) = table.columns.iter().skip(2).position(|column| column.ty == Type::Int) else { continue };
            if reference && table.columns[column + 2].default.is_none() && table.primary_key < 3 {
                table.rows.retain(|row| {
                    row[column + 2] == "NULL" || other.rows.iter().any(|referenced| referenced[0] == row[column + 2])
                });
                let name = &table.columns[column + 2].name;
                table.constraints.push(format!("FOREIGN KEY ({name}) REFERENCES {}{action}", other.name));
                return;
            }
        }
    }
}
