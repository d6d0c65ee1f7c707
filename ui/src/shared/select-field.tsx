import { Button, FieldError, Label, ListBox, ListBoxItem, Popover, Select, SelectValue } from 'react-aria-components';

interface Props {
  readonly label: string;
  readonly value: string;
  /** Pairs of value and text, in order. */
  readonly options: readonly (readonly [string, string])[];
  readonly onChange: (value: string) => void;
  /** What is wrong with the value. */
  readonly error?: string | undefined;
}

/** A labelled list to choose one option from. */
export function SelectField({ label, value, options, onChange, error }: Props) {
  return (
    <Select
      className="select-field"
      value={value}
      onChange={(key) => onChange(String(key))}
      isInvalid={error !== undefined}
      validationBehavior="aria"
    >
      <Label>{label}</Label>
      <Button>
        <SelectValue />
        <span aria-hidden="true">▾</span>
      </Button>
      <FieldError>{error}</FieldError>
      <Popover className="popover">
        <ListBox items={options.map(([id, text]) => ({ id, text }))}>
          {({ id, text }) => <ListBoxItem id={id}>{text}</ListBoxItem>}
        </ListBox>
      </Popover>
    </Select>
  );
}
