import { Button, FieldError, Label, ListBox, ListBoxItem, Popover, Select, SelectValue } from 'react-aria-components';

interface Props {
  readonly label: string;
  readonly value: string;
  /** Values with their words, in order. */
  readonly options: readonly (readonly [string, string])[];
  readonly onChange: (value: string) => void;
  /** What is wrong with the value. */
  readonly fault?: string | undefined;
}

/** One of a few. */
export function Choice({ label, value, options, onChange, fault }: Props) {
  return (
    <Select
      className="choice"
      value={value}
      onChange={(key) => onChange(String(key))}
      isInvalid={fault !== undefined}
      validationBehavior="aria"
    >
      <Label>{label}</Label>
      <Button>
        <SelectValue />
        <span aria-hidden="true">▾</span>
      </Button>
      <FieldError>{fault}</FieldError>
      <Popover className="popover">
        <ListBox items={options.map(([id, name]) => ({ id, name }))}>
          {({ id, name }) => <ListBoxItem id={id}>{name}</ListBoxItem>}
        </ListBox>
      </Popover>
    </Select>
  );
}
